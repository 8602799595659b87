"""TRL's GRPOTrainer takes our step: gradients of a whole model, and the parameters after training."""

import math
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("trl", reason="trl is not installed: make test-peers")

from datasets import Dataset
from peer_batches import KEYS, same
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig
from trl import GRPOTrainer as TRLTrainer

import dgpo
from analysis import run_plots, runs
from dgpo.errors import ConfigError
from dgpo.integrations import trl as adapter

WORDS = ["<pad>", "<eos>", *"abcdefghij"]
AGGREGATION = {
    "grpo": "seq-mean-token-mean",
    "bnpo": "token-mean",
    "dapo": "token-mean",
    "dr_grpo": "constant",
    "luspo": "seq-mean-token-sum",
}
COMPLETION = 8


def make(folder, loss_type="bnpo", trainer=adapter.GRPOTrainer, config=(), **kwargs):
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 1, "vocab_size": len(WORDS), "tie_word_embeddings": False}
    model = Qwen2ForCausalLM(Qwen2Config(**shape, eos_token_id=1, pad_token_id=0, bos_token_id=None)).double()
    settings = {
        "output_dir": str(folder / "out"), "per_device_train_batch_size": 8, "num_generations": 8, "beta": 0.0,
        "max_completion_length": COMPLETION, "loss_type": loss_type, "use_cpu": True, "bf16": False, "max_steps": 3,
        "num_iterations": 3, "learning_rate": 1.0, "optim": "sgd", "lr_scheduler_type": "constant", "warmup_steps": 0,
        "max_grad_norm": 0.0, "gradient_checkpointing": False, "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "logging_steps": 1, "temperature": 1.0,
    }  # fmt: skip
    return trainer(
        model=model,
        reward_funcs=lambda completions, **_: [float(len(set(c))) for c in completions],
        args=GRPOConfig(**settings | dict(config)),
        train_dataset=Dataset.from_list([{"prompt": "a b c"}] * 64),
        processing_class=tokenizer,
        **kwargs,
    )


def test_top_entropy_keeps_the_tokens_that_trl_keeps():
    generator = torch.Generator().manual_seed(2)
    entropy, old, A = (torch.rand(6, 7, generator=generator, dtype=torch.float64) for _ in range(3))
    mask = torch.arange(7) < torch.arange(2, 8)[:, None]
    alone = SimpleNamespace(pad_across_processes=lambda x, **_: x, gather=lambda x: x)
    its = TRLTrainer.get_high_entropy_mask(SimpleNamespace(accelerator=alone), entropy, mask, 0.8)
    ours = dgpo.methods.get("top_entropy").weight(-old, -old, A, mask, entropy_now=entropy)
    assert torch.equal(ours > 0, its)
    assert 0 < its.sum() < mask.sum()


def inputs(batch):
    torch.manual_seed(1)
    mask = batch["mask"][:, :COMPLETION].long()
    return {
        "prompt_ids": torch.randint(2, len(WORDS), (8, 3)),
        "prompt_mask": torch.ones(8, 3, dtype=torch.long),
        "completion_ids": torch.randint(2, len(WORDS), (8, COMPLETION)),
        "completion_mask": mask,
        "advantages": batch["advantage"][:, 0],
        "num_items_in_batch": mask.sum(),
    }


def log_probabilities(model, given):
    ids = torch.cat([given["prompt_ids"], given["completion_ids"]], 1)
    attention = torch.cat([given["prompt_mask"], given["completion_mask"]], 1)
    logits = model(ids, attention_mask=attention).logits[:, -COMPLETION - 1 : -1]
    return logits.log_softmax(-1).gather(-1, given["completion_ids"][..., None])[..., 0]


def gradient(model, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*model.parameters()])])


def our_loss(model, given, method, loss_type):
    logp = log_probabilities(model, given)
    old = given.get("old_per_token_logps", logp.detach())
    length = COMPLETION if loss_type == "dr_grpo" else None
    rest = given["advantages"], given["completion_mask"]
    return dgpo.policy_loss(logp, old, *rest, method=method, loss_aggregation=AGGREGATION[loss_type], length=length)


@pytest.fixture
def given(batch, tmp_path):
    """Inputs of TRL's loss in float64, sampled by a policy a nat or so away."""
    made = inputs(batch)
    logp = log_probabilities(make(tmp_path).model, made).detach()
    return made | {"old_per_token_logps": logp + batch["logp"][:, :COMPLETION] - batch["old_logp"][:, :COMPLETION]}


@pytest.mark.parametrize("loss_type", AGGREGATION)
def test_every_method_has_our_gradient(loss_type, given, tmp_path):
    trainer = make(tmp_path, loss_type)
    model = trainer.model
    model.train()
    trainer.current_gradient_accumulation_steps = 1
    for key in KEYS:
        trainer.method = dgpo.methods.get(key)
        theirs = gradient(model, trainer.compute_loss(model, given))
        same(theirs, gradient(model, our_loss(model, given, key, loss_type)))


def test_kl_entropy_and_correction_stay_trls(given, tmp_path):
    """With weight r, the adapter is TRL without clipping: KL by importance ratio, entropy bonus, vLLM's correction."""
    given = given | {"ref_per_token_logps": given["old_per_token_logps"] - 0.5}
    given["importance_sampling_ratio"] = torch.rand(8, COMPLETION, dtype=torch.float64)
    results = []
    for trainer in (make(tmp_path, method="pg"), make(tmp_path, trainer=adapter._Base)):
        trainer.epsilon_low = trainer.epsilon_high = math.inf
        trainer.beta, trainer.entropy_coef, trainer._entropy_bonus_enabled = 0.3, 0.1, True
        trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
        trainer.current_gradient_accumulation_steps = 1
        model = trainer.model
        model.train()
        results.append(gradient(model, trainer.compute_loss(model, given)))
    same(*results)


def test_tokens_far_from_the_old_policy_do_not_overflow(given, tmp_path):
    """A ratio of e^±200 is beyond float32; a clip on the weight makes it harmless, and it stays so."""
    trainer = make(tmp_path, method="gppo")
    model = trainer.model.float()
    model.train()
    trainer.current_gradient_accumulation_steps = 1
    far = given | {"old_per_token_logps": given["old_per_token_logps"].float()}
    far["old_per_token_logps"][0, :2] += torch.tensor([200.0, -200.0])
    far["advantages"] = far["advantages"].float()
    theirs = gradient(model, trainer.compute_loss(model, far))
    same(theirs, gradient(model, our_loss(model, far, "gppo", "bnpo")), within=1e-4)


@pytest.mark.parametrize("key", KEYS)
def test_training_takes_our_steps(key, tmp_path):
    """Three SGD steps on one generation: each moves the parameters by our gradient on the same batch."""
    seen = []

    class Watched(adapter.GRPOTrainer):
        def _compute_loss(self, model, inputs):
            seen.append((dict(inputs), {k: v.clone() for k, v in model.state_dict().items()}))
            return super()._compute_loss(model, inputs)

    trainer = make(tmp_path, trainer=Watched, method=key)
    trainer.train()
    after = [state for _, state in seen[1:]] + [trainer.model.state_dict()]
    assert len(seen) == 3
    model = make(tmp_path).model
    for (given, before), end in zip(seen, after, strict=True):
        model.load_state_dict(before)
        model.train()
        step = torch.cat([(before[n] - end[n]).flatten() for n, _ in model.named_parameters()])
        same(step, gradient(model, our_loss(model, given, key, "bnpo")))


def test_a_run_leaves_token_records(tmp_path):
    trainer = make(tmp_path, method="dgpo", method_params={"n": 2}, token_records=tmp_path / "run", record_share=1.0)
    trainer.train()
    trainer.records.flush()
    run = runs.read(tmp_path / "run")
    tokens = run.tokens()
    assert run.method == dgpo.methods.get("dgpo", n=2)
    assert set(tokens["update"]) == {0, 1, 2}
    assert set(tokens["step"]) == {1}
    first = tokens[tokens["update"] == 0]
    assert (first["ratio"] == 1).all()
    assert (first["region"] == "IN").all()
    assert tokens["entropy"].between(0, math.log(len(WORDS))).all()
    weight = run.method.weight(*(torch.tensor(tokens[[c]].to_numpy()) for c in ("logp", "old_logp", "advantage")))
    torch.testing.assert_close(weight[:, 0], torch.tensor(tokens["w_log"].to_numpy()), rtol=1e-5, atol=1e-6)
    assert len(run_plots.weight_scatter(tokens, run.method).axes) == 5


def test_what_has_no_effect_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="loss_type='cispo' must be one of"):
        make(tmp_path, loss_type="cispo")
    with pytest.raises(ConfigError, match=r"epsilon_high=0.28 has no effect on method='dgpo': use method_params"):
        make(tmp_path, config={"epsilon_high": 0.28})


def test_a_hook_that_moved_is_named(batch, tmp_path, monkeypatch):
    monkeypatch.setattr(adapter._Base, "_compute_loss", lambda self, model, inputs: inputs["advantages"].sum())
    trainer = make(tmp_path)
    with pytest.raises(ImportError, match=r"_compute_loss reads the advantages before log π; .* tested with trl 1\.16"):
        trainer.compute_loss(trainer.model, inputs(batch))
