"""The methods as their papers write them: losses to be differentiated, and closed forms in plain arithmetic.

Nothing here is shared with `dgpo.methods`. A loss is a function of π (through its logarithm) whose gradient autograd
takes, so that `weight` is checked against what the published objective really does, stop-gradients included.
"""

import math

import torch


def ppo_clip(lp, old, A, eps_low, eps_high, dual_clip=None):
    """−min(rA, clip(r)A); with dual clip, for A < 0 the loss is at most −cA."""
    r = (lp - old).exp()
    loss = torch.maximum(-A * r, -A * r.clamp(1 - eps_low, 1 + eps_high))
    return loss if dual_clip is None else torch.where(A < 0, torch.minimum(loss, -A * dual_clip), loss)


def cispo(lp, old, A, eps_low, eps_high):
    return -A * (lp - old).exp().clamp(1 - eps_low, 1 + eps_high).detach() * lp


def ce_gppo(lp, old, A, eps_low, eps_high, beta_low=1.0, beta_high=1.0, dual_clip=None):
    """The clipped branch is δ·(1∓ε)/sg(δ): the value of the clip, with a gradient. GPPO has both β = 1."""
    r = (lp - old).exp()
    left, right = beta_low * (1 - eps_low) / r.detach() * r, beta_high * (1 + eps_high) / r.detach() * r
    kept = torch.where((r < 1 - eps_low) & (A < 0), left, torch.where((r > 1 + eps_high) & (A > 0), right, r))
    if dual_clip is not None:
        kept = torch.where((A < 0) & (r > dual_clip), torch.full_like(r, dual_clip), kept)
    return -A * kept


def aspo(lp, old, A, eps_low, eps_high, dual_clip):
    r = (lp - old).exp().detach()
    w = torch.where(A > 0, (1 / r).clamp(max=dual_clip), r.clamp(max=dual_clip))
    clipped = ((r < 1 - eps_low) & (A < 0)) | ((r > 1 + eps_high) & (A > 0))
    return -A * torch.where(clipped, 0.0, w) * lp


def dgpo(lp, old, A, eps_low, eps_high, n, m):
    """−A · sg(w_prob) · π with the constants C_left, C_right that continuity of w_prob asks for."""
    p, p_old = lp.exp(), old.exp()
    r = (p / p_old).detach()
    c_left = (1 - eps_low) ** -n * p_old ** -(n + 1)
    c_right = (1 + eps_high) ** (1 / m) * p_old ** (1 / m - 1)
    w_prob = torch.where((r < 1 - eps_low) & (A < 0), c_left * p.detach() ** n, 1 / p_old)
    w_prob = torch.where((r > 1 + eps_high) & (A > 0), c_right * p.detach() ** (-1 / m), w_prob)
    return -A * w_prob * p


def pg(lp, old, A):
    return -A * (lp - old).exp()


def reinforce(lp, old, A):
    return -A * lp


def cispo_cap(lp, old, A, cap):
    return -A * (lp - old).exp().clamp(max=cap).detach() * lp


def sapo(lp, old, A, tau_pos, tau_neg):
    """−A · (4/τ) σ(τ(r−1)); 4σ(1−σ) is sech² of the half argument."""
    tau = torch.where(A > 0, torch.tensor(tau_pos, dtype=lp.dtype), torch.tensor(tau_neg, dtype=lp.dtype))
    return -A * 4 / tau * torch.sigmoid(tau * ((lp - old).exp() - 1))


def maspo(lp, old, A):
    r = (lp - old).exp()
    base = old.exp().pow(-0.3).clamp(1, 10)
    sigma = torch.where(A > 0, base * (1 + 0.03 * A), base / (1 - 0.03 * A))
    gate = torch.where((A > 0) & (r > 1) | (A < 0) & (r < 1), torch.exp(-((r - 1) ** 2) / (2 * sigma**2)), 1.0)
    return -A * gate.detach() * r


def dppo(lp, old, A, delta, cap, divergence):
    """verl's dppo_tv and dppo_kl: what is valid is kept, min(r, cap) stopped."""
    p, q = lp.exp(), old.exp()
    kl = q * (old - lp) + (1 - q) * torch.log((1 - q + 1e-8) / (1 - p + 1e-8))
    if divergence == "tv":
        valid_positive, valid_negative = p - q <= delta, p - q >= -delta
    else:
        valid_positive, valid_negative = (kl <= delta) | (p <= q), (kl <= delta) | (p >= q)
    valid = torch.where(A > 0, valid_positive, valid_negative)
    return -A * (lp - old).exp().clamp(max=cap).detach() * lp * valid.detach()


def drpo(lp, old, A, eps):
    """−(A/π_old) [Δπ − sign(A) Δπ²/2ε], Δπ = π − π_old: a quadratic penalty on the probability difference."""
    change = lp.exp() - old.exp()
    return -A / old.exp() * (change - A.sign() * change**2 / (2 * eps))


def ipo(lp, old, A, eps):
    """prime-rl's ipo_loss_fn with kl_tau = 0."""
    masked = torch.abs(lp.exp() - old.exp()) > eps
    return -(~masked * A * (lp - old).exp())


def kpop(lp, old, A, phi):
    def bernoulli_kl(p, q):
        return p * torch.log(p / q) + (1 - p) * torch.log((1 - p) / (1 - q))

    p, q = lp.exp().detach(), old.exp()
    kept = (bernoulli_kl(p, q) <= phi) & (bernoulli_kl(q, p) <= phi)
    return -A * kept * (lp - old).exp()


def icepop(lp, old, A, low, high):
    r = (lp - old).exp()
    return -A * torch.where((r >= low) & (r <= high), r, 0.0)


def dispo(lp, old, A, eps_low_pos, eps_high_pos, eps_low_neg, eps_high_neg):
    r = (lp - old).exp()
    good, bad = r.clamp(1 - eps_low_pos, 1 + eps_high_pos), r.clamp(1 - eps_low_neg, 1 + eps_high_neg)
    return -A * torch.where(A > 0, good, bad).detach() * lp


def ripo(lp, old, A, delta, low, high):
    """The ratio truncated to [low, high], then PPO's clip with ε = √(delta/π_old)."""
    r, eps = (lp - old).exp().clamp(low, high), (delta / old.exp()).sqrt()
    return torch.maximum(-A * r, -A * torch.clamp(r, 1 - eps, 1 + eps))


def dcpo(lp, old, A, eps_low, eps_high, cap):
    """DCPO's get_clip_low_high, and PPO's clip with it."""
    r, q = (lp - old).exp(), old.exp()
    low_c = 1 - 4 * eps_low / q
    low = (1 + torch.sqrt(low_c * (low_c >= 0))) / 2
    high = torch.clamp((1 + torch.sqrt(1 + 4 * eps_high / q)) / 2, 0, cap)
    return torch.maximum(-A * r, -A * torch.clamp(r, low, high))


LOSSES = {
    "grpo": ppo_clip,
    "cispo": cispo,
    "gppo": ce_gppo,
    "ce_gppo": ce_gppo,
    "aspo": aspo,
    "dgpo": dgpo,
    "pg": pg,
    "reinforce": reinforce,
    "cispo_cap": cispo_cap,
    "sapo": sapo,
    "maspo": maspo,
    "dppo": dppo,
    "drpo": drpo,
    "ipo": ipo,
    "kpop": kpop,
    "icepop": icepop,
    "dispo": dispo,
    "ripo": ripo,
    "dcpo": dcpo,
}


def gspo_sequence(lp, old, A, eps_low, eps_high):
    """Loss of sequences `[B, T]`, one A each: the PPO clip on s = exp(mean Δ)."""
    s = (lp - old).mean(-1).exp()
    return torch.maximum(-A * s, -A * s.clamp(1 - eps_low, 1 + eps_high))


def gmpo_sequence(lp, old, A, eps_low, eps_high):
    """−A · exp(mean of sign-clipped Δ), as the authors' code: min in the direction of A, in log space."""
    delta, sign = lp - old, A.sign()[:, None]
    clipped = sign * torch.minimum(sign * delta, sign * delta.clamp(-eps_low, eps_high))
    return -A * clipped.mean(-1).exp()


def luspo_sequence(lp, old, A, eps_low, eps_high):
    """TRL's luspo: the loss of a sequence, which is one number, times its length."""
    return gspo_sequence(lp, old, A, eps_low, eps_high) * lp.shape[-1]


def vespo_sequence(lp, old, A, k_pos, lambda_pos, k_neg, lambda_neg):
    """TRL's get_gamma_weights, with its clamps, on −φ·A·log π."""
    with torch.no_grad():
        log_w = (lp - old).clamp(-20, 20).sum(-1).clamp(math.log(1e-8), 20)
        k, lam = (
            torch.where(A >= 0, torch.tensor(x), torch.tensor(y)) for x, y in ((k_pos, k_neg), (lambda_pos, lambda_neg))
        )
        phi = torch.exp(lam + k * log_w - lam * log_w.exp())
    return (-(phi * A)[:, None] * lp).mean(-1)


def opsm_sequence(lp, old, A, eps_low, eps_high, dual_clip, delta):
    """TRL's get_off_policy_mask times the PPO clip."""
    keep = (A >= 0) | ((old - lp.detach()).mean(-1) <= delta)
    return (ppo_clip(lp, old, A[:, None], eps_low, eps_high, dual_clip) * keep[:, None]).mean(-1)


def archer(lp, old, A, sure, eps, eps_uncertain, c):
    """Archer2.0's compute_policy_loss_archer: one-sided clips, 1/r for A > 0, tokens that are `sure` clipped closer."""
    r = (lp - old).exp()
    low, high = (torch.where(sure, 1 - eps, 1 - eps_uncertain), torch.where(sure, 1 + eps, 1 + eps_uncertain))
    bad, good = torch.maximum(r, low), torch.minimum(r, high)
    negative = torch.where(bad > c, -A * c * lp, -A * bad)
    positive = torch.where(1 / good > c, -A * c * lp, -A * (good / good.detach()) / good.detach())
    return torch.where(A < 0, negative, positive)


def bapo(lp, old, A, starts, ends, step, target, c):
    """WooooDyy/BAPO's search for the bounds, then PPO's clip and dual clip with them."""
    r = (lp - old).exp()
    low, high = starts

    def balance():
        effective = torch.where(A >= 0, r.clamp(max=high), r.clamp(min=low)) * A
        return effective.clamp(min=0).sum() / (-effective.clamp(max=0).sum() + 1e-8)

    while balance() < target and low < ends[0]:
        low = min(low + step, ends[0])
    while balance() < target and high < ends[1]:
        high = min(high + step, ends[1])
    loss = torch.maximum(-A * r, -A * r.clamp(low, high))
    return torch.where(A < 0, torch.minimum(-A * c, loss), loss)


def erc(lp, old, A, entropy, entropy_now, eps_low, eps_high, dual_clip, low, high):
    """Kwai-Klear's compute_policy_loss_grpo_erc: tokens outside the band keep their value and lose their gradient."""
    ratio = (entropy_now + 1e-8) / (entropy + 1e-8)
    loss = ppo_clip(lp, old, A, eps_low, eps_high, dual_clip)
    return torch.where((ratio > low) & (ratio < high), loss, loss.detach())


def clip_cov(lp, old, A, eps, share, low, high):
    """verl's compute_policy_loss_clip_cov without its random choice: `share` of the tokens covers all candidates."""
    r = (lp - old).exp()
    plain, clipped = -A * r, -A * r.clamp(1 - eps, 1 + eps)
    covariance = ((A - A.mean()) * (lp - lp.mean())).detach()
    covariance[clipped > plain] = -math.inf
    candidates = (covariance < high) & (covariance > low)
    assert candidates.sum() <= int(share * lp.numel())
    return torch.maximum(plain, clipped) * ~candidates


def kl_cov(lp, old, A, share, coef):
    """verl's compute_policy_loss_kl_cov."""
    covariance = ((A - A.mean()) * (lp - lp.mean())).detach().flatten()
    chosen = torch.zeros_like(covariance)
    chosen[covariance.topk(max(1, int(len(covariance) * share))).indices] = 1
    return -A * (lp - old).exp() + chosen.view_as(lp) * coef * (lp - old).abs()


def dro(lp, old, A, beta):
    """verl's compute_policy_loss_dro."""
    return -(lp * A - 0.5 * beta * (lp - old).square())


def closed_form(method, params, pi_old, advantage, r):
    """w_log of one token by the table of formulas, region by region, in plain Python."""
    low, high = 1 - params.get("eps_low", 0.2), 1 + params.get("eps_high", 0.2)
    below, above, good = r < low, r > high, advantage > 0
    left, right, c = below and not good, above and good, params.get("dual_clip")
    match method:
        case "pg":
            return r
        case "grpo":
            return 0.0 if left or right or (not good and r > c) else r
        case "cispo":
            return min(max(r, low), high)
        case "cispo_cap":
            return min(r, params["cap"])
        case "gppo" | "ce_gppo":
            if left:
                return params.get("beta_low", 1.0) * low
            if right:
                return params.get("beta_high", 1.0) * high
            return 0.0 if not good and r > c else r
        case "aspo":
            return 0.0 if left or right else min(1 / r if good else r, c)
        case "dgpo":
            n, m = params["n"], params["m"]
            if left:
                return r ** (n + 1) / low**n
            return high ** (1 / m) * r ** (1 - 1 / m) if right else r
        case "sapo":
            tau = params["tau_pos"] if good else params["tau_neg"]
            return r / math.cosh(tau * (r - 1) / 2) ** 2
        case "maspo":
            sigma = min(max(pi_old**-0.3, 1), 10)
            sigma = sigma * (1 + 0.03 * advantage) if good else sigma / (1 - 0.03 * advantage)
            gated = r > 1 if good else r < 1
            return r * math.exp(-((r - 1) ** 2) / (2 * sigma**2)) if gated else r
        case "drpo":
            return r * (1 - math.copysign(1, advantage) * pi_old * (r - 1) / params["eps"])
    raise KeyError(method)
