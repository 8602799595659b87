"""What pushing one vanishing token down does to the other tokens that share its parameters.

One bad token (A < 0) is updated repeatedly, as in `analysis.flow`, but on a policy whose arms share features. The
question is how far the *rest* of the policy, π(·| not the token), moves meanwhile, although nothing rewards that.
"""

import math

import numpy as np
import pandas as pd
import torch

from analysis import policies
from analysis.bandit_problem import Draws
from analysis.landscape import key_of, resolve_all, weigh


def leakage(
    methods, *, policy="linear", arms=64, features=16, hidden=32, pi_old=0.05, steps=400, lr=0.1, seeds=20, seed=0
):
    """Follow methods × seeds for `steps` updates; a row for each method, seed and recorded step.

    Columns: method, name, seed, time (= step · lr), log_pi of the token, drift (total variation between π(·| not the
    token) and what it was at the start, in [0, 1]). The rest of the mass starts uneven, as softmax(Gaussian).
    Raises ValueError for an unknown policy.
    """
    chosen = resolve_all(methods)
    draws = Draws(range(seeds), seed, "cpu", torch.float64)
    rest = draws.randn(arms - 1).log_softmax(-1) + math.log1p(-pi_old)
    start = torch.cat([torch.full((seeds, 1), math.log(pi_old), dtype=torch.float64), rest], 1)
    model = policies.make(policy, start.repeat(len(chosen), 1, 1), features, hidden, draws.randn)
    before = rest.softmax(-1)
    keep, rows = set(np.unique(np.geomspace(1, steps, 40).round().astype(int))), []
    for step in range(1, steps + 1):
        log_p = model.z.log_softmax(-1)
        log_r = (log_p[..., 0] - math.log(pi_old)).numpy()
        w = torch.from_numpy(np.stack([weigh(m, x, -1.0, pi_old) for m, x in zip(chosen, log_r, strict=True)]))
        push = lr * w[..., None] * log_p.exp()  # ascent on −log π_a: −(e_a − π)
        push[..., 0] -= lr * w
        model.step(push)
        if step in keep:
            drift = (model.z[..., 1:].softmax(-1) - before).abs().sum(-1) / 2
            log_pi = model.z.log_softmax(-1)[..., 0]
            for i, m in enumerate(chosen):
                part = {"method": key_of(m), "name": str(m), "seed": range(seeds), "time": step * lr}
                rows.append(pd.DataFrame(part | {"log_pi": log_pi[i].numpy(), "drift": drift[i].numpy()}))
    return pd.concat(rows, ignore_index=True)
