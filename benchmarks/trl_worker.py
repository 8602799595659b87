"""The work of benchmarks.workload on TRL's GRPOTrainer, as a worker; needs nothing of dgpo but that file.

    PYTHON_WITH_TRL benchmarks/trl_worker.py SIZE FOLDER

A step is one generation of 256 completions and the eight optimizer steps on it. TRL's own defaults, but for what makes
the work the same: no gradient checkpointing, no top-k, no KL, a constant learning rate, one row of metrics a step.
"""

import sys
import threading
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

sys.path.insert(0, str(Path(__file__).parent))
import workload as w

torch.set_num_threads(1)
folder = Path(sys.argv[2])


class Steps(TrainerCallback):
    """Lets the trainer, which has a loop of its own, go on for one step at a time."""

    def __init__(self):
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step % w.UPDATES == 0:
            self.go.acquire()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % w.UPDATES == 0:
            self.done.release()

    def step(self):
        self.go.release()
        self.done.acquire()


def rewards(prompts, completions, **kwargs):
    return [w.reward(text) for text in completions]


steps = Steps()
config = GRPOConfig(
    output_dir=str(folder / "run"), per_device_train_batch_size=w.PROMPTS * w.COMPLETIONS // w.UPDATES,
    steps_per_generation=w.UPDATES, num_generations=w.COMPLETIONS, max_completion_length=w.TOKENS, max_steps=80_000,
    learning_rate=1e-6, lr_scheduler_type="constant", beta=0.0, temperature=1.0, top_k=0, top_p=1.0,
    gradient_checkpointing=False, bf16=False, use_cpu=True, logging_steps=w.UPDATES, save_strategy="no",
    report_to="none", disable_tqdm=True, remove_unused_columns=False,
)  # fmt: skip
trainer = GRPOTrainer(
    model=AutoModelForCausalLM.from_pretrained(folder),
    processing_class=PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left"),
    reward_funcs=rewards,
    args=config,
    train_dataset=Dataset.from_list([{"prompt": w.prompt(i)} for i in range(1024)]),
    callbacks=[steps],
)
threading.Thread(target=trainer.train, daemon=True).start()
w.serve(steps.step)
