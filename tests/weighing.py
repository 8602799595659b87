"""The weight of single tokens, for tests of methods."""

import math

import torch

F64 = torch.float64


def weigh(method, ratio, advantage, pi_old=0.05, dtype=F64):
    """w_log at ratios, each point a sequence of its own."""
    log_ratio = torch.as_tensor(ratio, dtype=dtype).log().reshape(-1, 1)
    old = torch.full_like(log_ratio, math.log(pi_old))
    return method.weight(log_ratio + old, old, advantage).squeeze(1)
