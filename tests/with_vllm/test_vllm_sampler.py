"""vLLM as a sampler: the trainer's weights after every update, the trainer's distribution, the caller's seeds."""

from contextlib import ExitStack, closing

import pytest
import torch
from scipy.stats import chisquare

from dgpo import config as configs
from dgpo import trainer
from dgpo.evaluation.heldout import decode, encode
from dgpo.model.loading import load_lm
from dgpo.model.policy import Policy
from dgpo.rollout import Sampling, mismatch, vllm

PROMPTS = ["7+5=", "3*4-2=", "9-1=", "8*2="]


@pytest.fixture
def made(small):
    """Makes trainers of checkpoint folders that sample with vLLM: their policies, engines and samplers."""
    with ExitStack() as stack:

        def make(model, **overrides):
            parts = trainer.Trainer(configs.make({**small, "model": str(model), "lr": 1e-2, **overrides}))
            stack.enter_context(closing(parts.sampler))
            return parts

        yield make


def move(parts, batch, sign=1.0):
    """A real update that makes the batch less likely, or more."""
    parts.engine.update(batch, lambda micro: (sign * parts.engine(micro)[0] * micro.mask / batch.mask.sum()).sum())


def distance(parts, batch):
    """mean |Δ log π| and max |Δ log π| between the sampler and the policy as it is now."""
    with torch.no_grad():
        d = (parts.policy(batch)[0] - batch.rollout_logp).abs()
    return float(d.sum() / batch.mask.sum()), float(d.max())


def greedy(parts, prompts):
    """Greedy completions by vLLM and by transformers."""
    sampler, lm = parts.sampler, load_lm(parts.config.model)[0]
    with torch.no_grad():  # the weights themselves, however they are sharded
        own = dict(lm.named_parameters())
        for name, tensor in parts.engine.named_full_parameters():
            own[name].copy_(tensor)
    params = sampler._params(temperature=0.0, max_tokens=14, stop_token_ids=sampler.stop, detokenize=False)
    outputs = sampler.llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
    ours = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        while ids.shape[1] < len(prompt) + 14 and int(ids[0, -1]) not in sampler.stop:
            ids = torch.cat([ids, lm(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
        ours.append(ids[0, len(prompt) :].tolist())
    return [list(o.outputs[0].token_ids) for o in outputs], ours


@pytest.mark.parametrize(("embeddings", "stage"), [("tied", 1), ("untied", 2), ("tied", 3), ("untied", 3)])
def test_after_every_update_the_sampler_is_the_policy(embeddings, stage, request, made):
    parts = made(request.getfixturevalue(embeddings), zero_stage=stage)
    prompts = encode(parts.tokenizer, PROMPTS)
    stale = []
    for step in range(10):
        batch = parts.sampler.generate(prompts * 4, list(range(16 * step, 16 * step + 16)), Sampling(14))
        assert distance(parts, batch)[1] <= 1e-4, step
        move(parts, batch, sign=-1 if step % 2 else 1)
        stale.append(distance(parts, batch)[1])
        parts.sampler.load(parts.engine.named_full_parameters())
        theirs, ours = greedy(parts, prompts)
        assert theirs == ours, step
    assert min(stale) > 1e-2  # every update moved the policy: equality was not for nothing


class TestOneEngine:
    """What needs no update shares one engine."""

    @pytest.fixture(scope="class")
    def parts(self, tied, tmp_path_factory):
        settings = {"difficulty": 1, "max_new_tokens": 14, "eval_problems": 6, "rollout": "vllm"}
        run_dir = str(tmp_path_factory.mktemp("run"))
        parts = trainer.Trainer(configs.load("tiny", model=str(tied), run_dir=run_dir, **settings))
        with closing(parts.sampler):
            yield parts

    @pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.7, 1.0), (1.0, 0.6), (0.6, 0.9)])
    def test_log_probabilities_are_over_all_words_at_the_sampling_temperature(self, parts, temperature, top_p):
        prompts = encode(parts.tokenizer, PROMPTS)
        batch = parts.sampler.generate(prompts * 8, list(range(32)), Sampling(14, temperature, top_p))
        with torch.no_grad():
            expected = Policy(parts.policy.lm, temperature)(batch)[0]
        torch.testing.assert_close(batch.rollout_logp, expected, rtol=0, atol=1e-4)

    @pytest.mark.parametrize("top_p", [1.0, 0.7])
    def test_first_tokens_follow_the_policy(self, parts, top_p):
        """2,000 draws of one token against the exact distribution, cut to its nucleus."""
        prompt = encode(parts.tokenizer, ["7+5=7"])[0]
        batch = parts.sampler.generate([prompt] * 2000, list(range(2000)), Sampling(1, 4.0, top_p))
        exact = (parts.policy.lm(torch.tensor([prompt])).logits[0, -1].detach().double() / 4).softmax(-1)
        order = exact.argsort(descending=True)
        kept = order[: int((exact[order].cumsum(0) < top_p).sum()) + 1]
        counts = torch.bincount(batch.completion[:, 0], minlength=len(exact)).double()
        assert counts.sum() == counts[kept].sum() == 2000
        expected = exact[kept] / exact[kept].sum() * 2000
        common = expected >= 5
        assert common.sum() >= 4
        merged = [torch.cat([x[common], x[~common].sum()[None]]) for x in (counts[kept], expected)]
        merged = [x[merged[1] > 0] for x in merged]
        assert chisquare(*merged).pvalue > 1e-3

    def test_a_completion_is_a_function_of_its_prompt_and_seed(self, parts):
        prompts = encode(parts.tokenizer, PROMPTS)
        texts = lambda *args: decode(parts.tokenizer, parts.sampler.generate(*args, Sampling(14)))  # noqa: E731
        first = texts(prompts, [1, 2, 3, 2**62 + 4])
        assert texts(prompts[::-1], [2**62 + 4, 3, 2, 1]) == first[::-1]
        assert texts(prompts[1:2], [2]) == first[1:2]
        assert texts(prompts, [5, 6, 7, 8]) != first

    def test_why_a_completion_ended(self, parts):
        prompts = encode(parts.tokenizer, PROMPTS)
        batch = parts.sampler.generate(prompts * 16, list(range(64)), Sampling(8))
        assert 0 < batch.finished.sum() < 64
        stop = parts.tokenizer.eos_token_id
        for i, (tokens, mask, finished) in enumerate(zip(batch.completion, batch.mask, batch.finished, strict=True)):
            assert bool(finished) == (stop in tokens[mask].tolist())
            assert stop not in tokens[mask][:-1].tolist()
            assert finished or mask.sum() == 8
            prompt = batch.input_ids[i, : -batch.mask.shape[1]][batch.attention_mask[i, : -batch.mask.shape[1]]]
            assert prompt.tolist() == prompts[i % 4]
        assert torch.equal(batch.attention_mask[:, -batch.mask.shape[1] :], batch.mask)

    def test_more_prompt_tokens_than_one_pass_takes(self, parts):
        """vLLM would cut a prompt in two, and on a CPU fails to rewind the seed of one that is half done."""
        prompts = [(p * 60)[:60] for p in encode(parts.tokenizer, PROMPTS)] * 75
        budget = parts.sampler.llm.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens
        assert budget < 256 * 60
        batch = parts.sampler.generate(prompts, list(range(300)), Sampling(4))
        assert distance(parts, batch)[1] <= 1e-4

    def test_without_new_weights_nothing_changes(self, parts):
        prompts = encode(parts.tokenizer, PROMPTS)
        before = parts.sampler.generate(prompts, [1, 2, 3, 4], Sampling(14))
        parts.sampler.sleep()
        parts.sampler.load(parts.engine.named_full_parameters())
        after = parts.sampler.generate(prompts, [1, 2, 3, 4], Sampling(14))
        assert torch.equal(before.input_ids, after.input_ids)
        assert torch.equal(before.rollout_logp, after.rollout_logp)


class TestStaleness:
    """What would be trained on in silence is seen by the mismatch, and by its bound."""

    def prompts(self, parts):
        """Longer than vLLM's blocks of 128 tokens, so that their keys and values are kept from call to call."""
        return [(p * 150)[:150] for p in encode(parts.tokenizer, PROMPTS)]

    def after_an_update(self, parts):
        sampling, prompts = Sampling(14), self.prompts(parts)
        batch = parts.sampler.generate(prompts * 2, list(range(8)), sampling)
        move(parts, batch)
        parts.sampler.load(parts.engine.named_full_parameters())
        batch = parts.sampler.generate(prompts * 2, list(range(8, 16)), sampling)
        _, metrics = parts.score(batch, torch.tensor([[0.0, 1.0]] * 4))
        mismatch.guard(2, metrics, 1e-3)
        return metrics["mismatch/mean_abs"]

    def test_long_prompts_are_right(self, made, tied):
        assert self.after_an_update(made(tied, max_prompt_tokens=200)) <= 1e-4

    def test_a_stale_prefix_cache_is_detected(self, made, tied):
        parts = made(tied, max_prompt_tokens=200)
        parts.sampler.llm.reset_prefix_cache = lambda: True
        with pytest.raises(mismatch.MismatchError, match=r"step 2: .* a prefix cache of older weights"):
            self.after_an_update(parts)

    def test_a_stale_output_layer_is_detected(self, made, tied, monkeypatch):
        monkeypatch.setattr(vllm, "_repack_head", lambda model: None)
        with pytest.raises(mismatch.MismatchError, match="step 2"):
            self.after_an_update(made(tied, max_prompt_tokens=200))

    def test_weights_that_are_not_pushed_are_detected_in_a_run(self, small, monkeypatch):
        monkeypatch.setattr(vllm.VLLMSampler, "load", lambda self, weights: None)
        with pytest.raises(mismatch.MismatchError, match=r"step 2: .* weights that did not reach the sampler"):
            trainer.train(configs.make({**small, "lr": 1e-2, "max_mismatch": 1e-3}))
