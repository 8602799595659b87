"""Bias and variance of a method's gradient, exactly: what a clip claims and what it costs.

One sample is a token a ~ π_old = softmax(z_old); its gradient on the logits z of π is

    g(a) = w_log(a) · A(a) · (e_a − π)

Over the K tokens both moments are sums. With c(a) = π_old(a) · w_log(a) · A(a) and ‖e_a − π‖² = 1 − 2π(a) + ‖π‖²,

    E g  = c − π · Σ c          E ‖g‖² = Σ π_old · (w_log · A)² · ‖e_a − π‖²

The true gradient is that of unclipped importance sampling, w_log = r, whose bias is 0. It is the gradient of E_π A; for
a sequence it is only the token-level surrogate of that, and "unbiased" means equal to the surrogate.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from analysis.landscape import resolve, weigh


@dataclass(frozen=True)
class Moments:
    """Of P policies, each `[P]`, relative to the squared norm of the true gradient.

    bias       squared length of E g − true
    variance   trace of the covariance of one sample
    cosine     between E g and the true gradient; NaN where a method has no gradient left
    """

    bias: np.ndarray
    variance: np.ndarray
    cosine: np.ndarray

    def mse(self, samples) -> np.ndarray:
        """Mean squared error of the mean of `samples` independent gradients, bias + variance / samples."""
        return self.bias + self.variance / np.asarray(samples)


def exact(method, logits_old, logits, advantage) -> Moments:
    """The moments of a method's gradient for P policies over K tokens; all inputs `[P, K]`, float64 throughout.

    NaN where the true gradient is 0: all advantages are equal, or the policy has saturated. Raises ValueError for
    other shapes.
    """
    logits_old, logits, advantage = (np.asarray(x, np.float64) for x in (logits_old, logits, advantage))
    if logits_old.ndim != 2 or not logits_old.shape == logits.shape == advantage.shape:
        raise ValueError(
            f"logits_old {logits_old.shape}, logits {logits.shape} and advantage {advantage.shape} must all be [P, K]"
        )
    old_logp, logp = log_softmax(logits_old, 1), log_softmax(logits, 1)
    pi_old, pi, log_ratio = np.exp(old_logp), np.exp(logp), logp - old_logp
    true = _mean(pi * advantage, pi)
    size = (true**2).sum(1)
    size[size == 0] = np.nan
    w = weigh(resolve(method), log_ratio, advantage, np.clip(pi_old, 1e-300, 1 - 1e-16))
    mean = _mean(pi_old * w * advantage, pi)
    score = 1 - 2 * pi + (pi**2).sum(1, keepdims=True)
    second = (pi_old * (w * advantage) ** 2 * score).sum(1)
    length = np.sqrt((mean**2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.where(length > 0, (mean * true).sum(1) / (length * np.sqrt(size)), np.nan)
    return Moments(((mean - true) ** 2).sum(1) / size, (second - length**2) / size, cosine)


def _mean(c: np.ndarray, pi: np.ndarray) -> np.ndarray:
    return c - pi * c.sum(1, keepdims=True)


def crossing(a: Moments, b: Moments) -> np.ndarray:
    """The number of samples from which the less biased of two methods has the smaller error, `[P]`.

    MSE_a = MSE_b at N = (variance_a − variance_b) / (bias_b − bias_a): below it the method with less variance is
    closer, above it the one with less bias. At 0 or below, one method is closer at every N; NaN where the biases are
    equal.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(a.bias == b.bias, np.nan, (a.variance - b.variance) / (b.bias - a.bias))


def best_gate(pi_old, samples):
    """The gate w_log / r with the least error for a token, N π_old / (N π_old + 1 − π_old), if scores are orthogonal.

    A token contributes π A to the gradient. A gate g leaves the bias π A (1 − g) and, over N samples, the variance (π
    A g)² (1/π_old − 1) / N. Their sum (1 − g)² + g² (1/π_old − 1)/N is least at g = 1 / (1 + (1/π_old − 1)/N).
    It depends on how often the token is expected, N π_old, and not on r or A: a clip by r pays bias where it saves no
    variance, unless r tells how rare the token was.
    """
    odds = (1 / np.asarray(pi_old, np.float64) - 1) / np.asarray(samples, np.float64)
    return 1 / (1 + odds)
