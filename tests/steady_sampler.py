"""The process of a background sampler with steady draws (see alike.py)."""

from alike import steady_draws

from dgpo.rollout.background import main as serve


def main(*arguments: str) -> int:
    steady_draws()
    return serve(*arguments)
