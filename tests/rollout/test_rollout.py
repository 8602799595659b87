"""The embedded sampler: right distribution, right log-probabilities, reproducible, blind to the batch."""

from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare
from transformers import GenerationConfig

from dgpo import config as configs
from dgpo import trainer
from dgpo.config import ConfigError
from dgpo.evaluation import run as evaluation
from dgpo.evaluation import settings
from dgpo.evaluation.heldout import decode, encode
from dgpo.model.loading import load_lm
from dgpo.model.policy import Policy
from dgpo.rollout import Sampling, TransformersSampler, vllm


@pytest.fixture(scope="module")
def parts(checkpoint):
    lm, tokenizer = load_lm(checkpoint)
    return Policy(lm), tokenizer


@pytest.fixture
def sampler(parts):
    return TransformersSampler(*parts, rows=64)


@pytest.fixture(scope="module")
def prompts(parts):
    return encode(parts[1], ["7+5=", "3*4-2=", "9-1=", "2*2*2*2="])


def test_log_probabilities_are_those_of_the_trainer(parts, sampler, prompts):
    batch = sampler.generate(prompts * 8, list(range(32)), Sampling(14, temperature=1.0))
    logp, _ = parts[0](batch)
    torch.testing.assert_close(batch.rollout_logp, logp, rtol=1e-4, atol=1e-5)


def test_temperature_is_part_of_the_distribution(parts, prompts):
    policy = Policy(parts[0].lm, temperature=0.5)
    batch = TransformersSampler(policy, parts[1], 64).generate(prompts, [0, 1, 2, 3], Sampling(14, temperature=0.5))
    torch.testing.assert_close(batch.rollout_logp, policy(batch)[0], rtol=1e-4, atol=1e-5)


def test_first_tokens_follow_the_policy(parts, sampler):
    """4,000 draws of one token against its exact distribution."""
    prompt = encode(parts[1], ["7+5=7"])[0]
    batch = sampler.generate([prompt] * 4000, list(range(4000)), Sampling(1, temperature=2.0))
    expected = (parts[0].lm(torch.tensor([prompt])).logits[0, -1].double() / 2).softmax(-1) * 4000
    counts = torch.bincount(batch.completion[:, 0], minlength=len(expected)).double()
    common = expected >= 5
    assert common.sum() >= 5
    merged = [
        torch.cat([x[common][1:], (x[common][:1] + x[~common].sum())]).detach().numpy() for x in (counts, expected)
    ]
    assert chisquare(merged[0], merged[1]).pvalue > 1e-3


def test_same_seeds_same_completions_whatever_the_batch(parts, prompts):
    """Each completion is a function of its prompt and seed: not of its neighbours, their number or their order."""
    seeds = [11, 12, 13, 14]
    together = TransformersSampler(*parts, rows=64).generate(prompts, seeds, Sampling(14))
    one_by_one = TransformersSampler(*parts, rows=1).generate(prompts, seeds, Sampling(14))
    turned = TransformersSampler(*parts, rows=3).generate(prompts[::-1], seeds[::-1], Sampling(14))
    texts = decode(parts[1], together)
    assert decode(parts[1], one_by_one) == texts
    assert decode(parts[1], turned) == texts[::-1]
    assert decode(parts[1], TransformersSampler(*parts, rows=64).generate(prompts, [1, 2, 3, 4], Sampling(14))) != texts


def test_completions_of_one_prompt_share_its_cache(parts, prompts):
    """Each distinct prompt is computed once; the completions are those of one prompt at a time."""
    lm, seen = parts[0].lm, []
    handle = lm.base_model.register_forward_pre_hook(
        lambda module, args, given: seen.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    seeds, rows = list(range(12)), [p for p in prompts[:3] for _ in range(4)]  # of three lengths
    try:
        shared = TransformersSampler(*parts, rows=64).generate(rows, seeds, Sampling(14))
    finally:
        handle.remove()
    alone = TransformersSampler(*parts, rows=1).generate(rows, seeds, Sampling(14))
    width = max(map(len, rows))
    assert seen[0] == (3, width - 1)
    assert set(seen[1:]) == {(12, 1)}
    assert torch.equal(shared.completion[shared.mask], alone.completion[alone.mask])
    torch.testing.assert_close(shared.rollout_logp, alone.rollout_logp, rtol=1e-4, atol=1e-5)


def test_why_a_completion_ended(parts, sampler, prompts):
    batch = sampler.generate(prompts * 16, list(range(64)), Sampling(8))
    assert 0 < batch.finished.sum() < 64
    stop = parts[1].eos_token_id
    for tokens, mask, finished in zip(batch.completion, batch.mask, batch.finished, strict=True):
        assert bool(finished) == (stop in tokens[mask].tolist())
        assert stop not in tokens[mask][:-1].tolist()
        assert finished or mask.sum() == 8


def test_the_checkpoints_own_generation_settings_do_not_leak(parts, prompts):
    """R1-Distill checkpoints ask for top-p and temperature; `generate` would take them over in silence."""
    policy, tokenizer = parts
    sampler = TransformersSampler(policy, tokenizer, 64)
    expected = sampler.generate(prompts, [5] * 4, Sampling(14))
    saved = policy.lm.generation_config
    try:
        policy.lm.generation_config = GenerationConfig(
            do_sample=True,
            top_p=0.5,
            top_k=2,
            temperature=0.1,
            repetition_penalty=1.5,
            eos_token_id=tokenizer.eos_token_id,
        )
        ours = policy.lm.generation_config
        got = sampler.generate(prompts, [5] * 4, Sampling(14))
        assert policy.lm.generation_config is ours
    finally:
        policy.lm.generation_config = saved
    assert torch.equal(got.input_ids, expected.input_ids)
    torch.testing.assert_close(got.rollout_logp, expected.rollout_logp)


def test_a_sampler_with_a_module_of_its_own_takes_the_weights_over(parts, prompts, checkpoint):
    policy, tokenizer = parts
    own = Policy(load_lm(checkpoint)[0])
    with torch.no_grad():
        for p in own.parameters():
            p.mul_(1.1)
    sampler = TransformersSampler(own, tokenizer, 64)
    expected = TransformersSampler(policy, tokenizer, 64).generate(prompts, [5] * 4, Sampling(14))
    before = sampler.generate(prompts, [5] * 4, Sampling(14))
    assert not torch.equal(before.rollout_logp, expected.rollout_logp)
    sampler.load(policy.lm.named_parameters())
    got = sampler.generate(prompts, [5] * 4, Sampling(14))
    assert torch.equal(got.input_ids, expected.input_ids)
    assert torch.equal(got.rollout_logp, expected.rollout_logp)


class TestWithoutVLLM:
    """What can be said before vLLM is imported, or where it is not installed. The rest is in tests/with_vllm."""

    @pytest.fixture
    def installed(self, monkeypatch):
        def install(version):
            monkeypatch.setattr(vllm.importlib.util, "find_spec", lambda name: version and object())
            monkeypatch.setattr(vllm.importlib.metadata, "version", lambda name: version)

        return install

    def test_a_missing_vllm_is_named_with_its_extra_before_anything_is_made(self, small, installed, tmp_path):
        installed(None)
        config = configs.make({**small, "rollout": "vllm"})  # a recipe is valid on a machine without it
        with pytest.raises(ConfigError, match=r"rollout='vllm' needs the package vllm: .*pip install -e '\.\[gpu\]'"):
            trainer.Trainer(config)
        assert not Path(small["run_dir"]).exists()
        with pytest.raises(ConfigError, match="needs the package vllm"):
            evaluation.evaluate(settings.load(rollout="vllm", eval_dir=str(tmp_path / "eval")))
        assert not (tmp_path / "eval").exists()

    def test_a_vllm_that_is_too_old_is_named(self, small, installed):
        installed("0.9.2")
        with pytest.raises(ConfigError, match=r"vllm 0\.27 or newer, here is 0\.9\.2"):
            trainer.Trainer(configs.make({**small, "rollout": "vllm"}))

    def test_an_engine_over_more_ranks_than_there_are_is_refused(self, small, installed):
        installed("0.27.1")
        with pytest.raises(ConfigError, match=r"vllm\.tensor_parallel=2 must divide the number of ranks, which is 1"):
            trainer.Trainer(configs.make({**small, "rollout": "vllm", "vllm": {"tensor_parallel": 2}}))

    def test_on_a_gpu_weights_wake_before_they_are_loaded_and_the_cache_after(self):
        """Level 2 throws the weights away; a KV cache that woke first would leave no room to load them."""
        calls = []

        class Engine:
            def __getattr__(self, name):
                def call(*args, **kwargs):
                    calls.append((name, *args, *(v for k, v in kwargs.items() if k in ("tags", "level"))))
                    for _ in kwargs.get("kwargs", {}).get("weights_iterator", ()):
                        calls.append("a weight")

                return call

        sampler = object.__new__(vllm.VLLMSampler)
        sampler.llm, sampler.on_cpu, sampler._sleeps, sampler._asleep = Engine(), False, True, False
        sampler.sleep()
        with pytest.raises(RuntimeError, match="sleeps until its weights are loaded"):
            sampler.generate([[1]], [1], Sampling(1))
        sampler.load([("w", torch.ones(1))])
        reload = [("collective_rpc", "reload_weights"), "a weight"]
        assert calls == [("sleep", 2), ("wake_up", ["weights"]), *reload, ("wake_up", ["kv_cache"])]
        sampler.load([("w", torch.ones(1))])  # awake, as after a resume
        assert calls[5:] == reload
