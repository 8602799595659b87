"""What DeepSpeed holds for weights, gradients and optimizer, against the plan: python -m benchmarks.plan

In a world of one, and, when torchrun starts it (torchrun --nproc-per-node 2 -m benchmarks.plan), in a larger one. A
small Qwen2 with random weights, every ZeRO stage and precision; the bytes of all tensors that were not there before the
engine was made, in its second update: after the first of two backward passes, and right before the optimizer step.
"""

import gc
from itertools import count

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from dgpo import cards, plan, shapes
from dgpo import config as configs
from dgpo.batch import Rollout
from dgpo.distributed import process_group
from dgpo.engine import Engine
from dgpo.model.policy import Policy

PARTS = ("weights", "optimizer", "gradients", "buckets")


def measure(stage: int, dtype: str) -> dict[str, tuple[float, dict[str, float]]]:
    """Phase of the plan → (bytes that are there, predicted bytes by part) on this rank."""
    config = configs.load("tiny", zero_stage=stage, dtype=dtype, log_reference_kl=False, micro_batch_size=1)
    process_group.init("cpu", config.timeout)
    shape = Qwen2Config(
        vocab_size=2000, hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    rows = 2 * process_group.world_size()  # two micro-batches a rank
    batch = Rollout(
        input_ids=torch.tensor([[5, 6, 12, 13]]).repeat(rows, 1),
        attention_mask=torch.ones(rows, 4, dtype=torch.bool),
        mask=torch.ones(rows, 2, dtype=torch.bool),
        rollout_logp=torch.zeros(rows, 2),
        finished=torch.ones(rows, dtype=torch.bool),
        sequence_id=torch.arange(rows),
    )
    before, held = living(), {}
    policy = Policy(Qwen2ForCausalLM(shape).to(getattr(torch, dtype)).eval())
    engine = Engine(policy, config)
    step = engine.deepspeed.step

    def note(phase):
        held[phase] = sum(storage.nbytes() for pointer, storage in living().items() if pointer not in before)

    calls = count()

    def loss(micro):
        if next(calls) == 3:  # the second micro-batch of the second update
            note("update")
        return engine(micro)[0].sum()

    engine.update(batch, loss)
    engine.deepspeed.step = lambda: (note("optimizer step"), step())
    engine.update(batch, loss)
    work = plan.Work(config, shapes.Shape.of(shape), process_group.world_size(), length=2, hardware=cards.Hardware())
    memory = plan.memory(work)
    if stage == 2:  # it has its bucket during a backward pass alone
        memory["update"].pop("buckets")
    return {phase: (held[phase], {part: memory[phase].get(part, 0) for part in PARTS}) for phase in held}


def living() -> dict[int, torch.UntypedStorage]:
    """The storages of all tensors that Python knows of, by address; holding them, no address is used again."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]  # isinstance would wake lazy objects
    return {x.untyped_storage().data_ptr(): x.untyped_storage() for x in tensors}


def main() -> None:
    """Print the table."""
    rows = []
    for dtype in ("float32", "bfloat16"):
        for stage in (1, 2, 3):
            for phase, (measured, parts) in measure(stage, dtype).items():
                predicted = sum(parts.values())
                split = ", ".join(f"{part} {b / 1e6:.2f}" for part, b in parts.items() if b)
                ranks = process_group.world_size()
                rows.append(
                    f"| {ranks} | {stage} | {dtype} | {phase} | {measured / 1e6:.2f} | {predicted / 1e6:.2f} "
                    f"({split}) | {predicted / measured - 1:+.1%} |"
                )
    if process_group.rank() == 0:
        print("| ranks | ZeRO | precision | before | held (MB) | plan (MB) | error |\n|---|---|---|---|---|---|---|")
        print("\n".join(rows))


if __name__ == "__main__":
    main()
