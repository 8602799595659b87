"""How much faster the batched bandit is than a plain NumPy loop over bandits. One thread, float64, in one run.

    python benchmarks/bandits.py [--bandits 10000] [--steps 1000] [--arms 32] [--device cpu]

Both do the same: a group of 8 arms from π_old, Bernoulli rewards, group advantages, 4 minibatch updates, regret. The
loop is timed on a few bandits of every method before and after; the faster of the two timings counts.

Last result: 10,000 bandits × 1,000 steps × 6 methods in 65.9 s, 1.10 µs a bandit and step, 450 MiB at its peak (one
thread of an AMD EPYC shared with other work). The loop took 88 to 92 µs on a quiet core and 130 to 160 µs on a busy
one: 82 to 114 times faster. More threads than idle cores make it slower, not faster.
"""

import argparse
import json
import resource
import time

import numpy as np
import torch

from analysis.bandit import Setting, run
from dgpo.methods import PAPER, get


def numpy_weights(method):
    """The six of the paper again, in NumPy: `w(log_r, advantage)`."""
    q = method.params()
    low, high, cap = 1 - q["eps_low"], 1 + q["eps_high"], q.get("dual_clip") or np.inf

    def weight(log_r, a):
        r = np.exp(log_r)
        left, right, far = (r < low) & (a < 0), (r > high) & (a > 0), (r > high) & (a < 0) & (r > cap)
        match method.key:
            case "grpo":
                return np.where(left | right | far, 0.0, r)
            case "cispo":
                return np.clip(r, low, high)
            case "gppo":
                return np.where(left, low, np.where(right, high, np.where(far, 0.0, r)))
            case "ce_gppo":
                values = q["beta_low"] * low, q["beta_high"] * high
                return np.where(left, values[0], np.where(right, values[1], np.where(far, 0.0, r)))
            case "aspo":
                return np.where(left | right, 0.0, np.minimum(np.where(a > 0, 1 / r, r), cap))
            case "dgpo":
                on_left, on_right = r * (r / low) ** q["n"], r * (r / high) ** (-1 / q["m"])
                return np.where(left, on_left, np.where(right, on_right, r))

    return weight


def plain(weight, z, mean, best, steps, setting, rng, draws=None):
    """One bandit, plainly: cumulative regret and the final logits. `draws` replaces the random numbers (tests)."""
    samples, size = setting.groups * setting.group, setting.groups * setting.group // setting.minibatches
    regret = 0.0
    for step in range(steps):
        e = np.exp(z - z.max())
        p = e / e.sum()
        regret += best - p @ mean
        u, v = draws[step] if draws is not None else rng.random((2, samples))
        cdf = p.cumsum()
        arm = np.searchsorted(cdf, u * cdf[-1], side="right")
        reward = (v < mean[arm]).astype(float).reshape(setting.groups, setting.group)
        centred = reward - reward.mean(1, keepdims=True)
        advantage = (centred / (reward.std(1, ddof=1, keepdims=True) + 1e-6)).ravel()
        old = np.log(p[arm])
        for _ in range(setting.epochs):
            for i in range(0, samples, size):
                a, adv = arm[i : i + size], advantage[i : i + size]
                e = np.exp(z - z.max())
                p = e / e.sum()
                push = weight(np.log(p[a]) - old[i : i + size], adv) * adv * setting.lr / size
                z = z - push.sum() * p
                np.add.at(z, a, push)
    return regret, z


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bandits", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--arms", type=int, default=32)
    parser.add_argument("--loop-bandits", type=int, default=3, help="bandits of each method that the loop runs")
    parser.add_argument("--loop-steps", type=int, default=300)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the batched program; the loop has one")
    parser.add_argument("--block", type=int, default=2048)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    setting, methods, rng = Setting(arms=args.arms, groups=1), [get(k) for k in PAPER], np.random.default_rng(0)

    def loop():
        start = time.perf_counter()
        for method in methods:
            for _ in range(args.loop_bandits):
                mean = rng.random(args.arms) * setting.others
                mean[0] = setting.best
                plain(numpy_weights(method), np.zeros(args.arms), mean, setting.best, args.loop_steps, setting, rng)
        return (time.perf_counter() - start) / (len(methods) * args.loop_bandits * args.loop_steps)

    run(methods, setting, seeds=args.block, steps=2, points=2, device=args.device, block=args.block)  # warm up
    loop()  # warm up
    before = loop()
    start = time.perf_counter()
    run(methods, setting, seeds=args.bandits, steps=args.steps, points=10, device=args.device, block=args.block)
    batched = time.perf_counter() - start
    after = loop()
    each = batched / (len(methods) * args.bandits * args.steps)
    result = {
        "bandits": args.bandits,
        "steps": args.steps,
        "arms": args.arms,
        "methods": len(methods),
        "device": args.device,
        "threads": args.threads,
        "batched_s": round(batched, 1),
        "batched_us_per_bandit_step": round(each * 1e6, 3),
        "loop_us_per_bandit_step": [round(x * 1e6, 1) for x in (before, after)],
        "loop_s_extrapolated": round(min(before, after) * len(methods) * args.bandits * args.steps),
        "times_faster": round(min(before, after) / each, 1),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(result, indent=2))
    return result


if __name__ == "__main__":
    main()
