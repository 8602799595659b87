"""Training on one page, from parts of dgpo and plain torch: one process, nothing hidden.

python examples/minimal.py [METHOD] [STEPS]        any key of dgpo.methods; `dgpo` and 60 without them
"""

import sys

import torch

from dgpo import config, tasks
from dgpo.evaluation.heldout import decode, encode
from dgpo.model.policy import Policy
from dgpo.model.tiny import load_policy
from dgpo.objective import group_advantages, loss_weights, objective
from dgpo.rollout import Sampling, TransformersSampler
from dgpo.seeds import fold_in


def train(cfg: config.Config) -> tuple[Policy, list[float]]:
    """The trained policy, and the mean reward of each step."""
    method = cfg.make_method()
    lm, tokenizer, _ = load_policy(cfg)
    policy, task = Policy(lm, cfg.temperature), tasks.make(cfg, tokenizer)
    sampler = TransformersSampler(policy, tokenizer, cfg.generation_batch_size)
    optimizer = torch.optim.AdamW(policy.parameters(), cfg.lr, betas=cfg.betas, weight_decay=cfg.weight_decay)
    P, n, history = cfg.prompts_per_step, cfg.group_size, []

    for step in range(1, cfg.steps + 1):
        # rollout: n completions of each of P problems, each with a seed of its own
        places = range((step - 1) * P, step * P)
        problems = [task.train(place) for place in places for _ in range(n)]
        seeds = [fold_in(cfg.seed, "rollout", place, i) for place in places for i in range(n)]
        prompts = encode(tokenizer, [problem.prompt for problem in problems])
        batch = sampler.generate(prompts, seeds, Sampling(cfg.max_new_tokens, cfg.temperature))

        # reward → advantage: compare the completions of one problem with each other
        rewards = torch.tensor(task.rewards(problems, decode(tokenizer, batch))).view(P, n)
        advantage = group_advantages(rewards, cfg.advantage).view(-1, 1)
        with torch.no_grad():
            old_logp, entropy = policy(batch, with_entropy=True)
        batch = batch.scored(advantage=advantage, old_logp=old_logp, entropy=entropy)

        # updates: random mini-batches, the method's weight on every token
        generator = torch.Generator().manual_seed(fold_in(cfg.seed, "update", step))
        for mini in batch.minibatches(cfg.num_minibatches, cfg.epochs, generator):
            mini = mini.weighted(loss_weights(mini.mask, cfg.loss_aggregation, cfg.max_new_tokens))
            loss, _ = objective(policy(mini)[0], None, mini, method)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), cfg.grad_clip)
            optimizer.step()
        history.append(float(rewards.mean()))
        print(f"step {step}  reward {history[-1]:.3f}", flush=True)
    return policy, history


if __name__ == "__main__":
    words = dict(enumerate(sys.argv[1:]))
    train(config.load("tiny", method=words.get(0, "dgpo"), steps=int(words.get(1, 60))))
