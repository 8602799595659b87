"""Whole runs and evaluations that sample with vLLM."""

from contextlib import closing
from pathlib import Path

import pytest
from running import rows, run
from transformers import Olmo2ForCausalLM, Qwen3MoeForCausalLM

from dgpo import __main__ as cli
from dgpo import config as configs
from dgpo.config import ConfigError
from dgpo.evaluation import run as evaluation
from dgpo.evaluation import settings
from dgpo.model.loading import load_lm
from dgpo.rollout import vllm
from dgpo.trainer import Trainer


def test_a_run_on_the_command_line(small, capsys):
    words = [f"{name}={value}" for name, value in {**small, "steps": 3, "max_mismatch": 1e-4}.items()]
    assert cli.main(["train", "tiny", *words]) == 0
    got = rows(capsys.readouterr().out.strip().splitlines()[-1])
    assert [row["step"] for row in got] == [0, 1, 2, 3]
    assert all(row["mismatch/mean_abs"] < 1e-4 for row in got[1:])
    assert got[3]["kl/reference"] > 1e-4


def test_a_crash_of_the_engine_surfaces_and_the_run_goes_on_as_if_it_had_not_been(small, monkeypatch, tmp_path):
    expected = rows(run(small, run_dir=str(tmp_path / "whole")))
    true, calls = vllm.VLLMSampler.generate, []

    def generate(self, *args):
        calls.append(1)
        if len(calls) == 5:  # the rollout of step 3, after two evaluations
            self.llm.apply_model(lambda model: setattr(model, "forward", None))
        return true(self, *args)

    monkeypatch.setattr(vllm.VLLMSampler, "generate", generate)
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        run(small)
    monkeypatch.undo()
    assert [row["step"] for row in rows(small["run_dir"])] == [0, 1, 2]
    assert rows(run(small, resume=True)) == expected


def test_evaluation_of_a_checkpoint(tied, tmp_path):
    """The same problems and the published sampling, temperature 0.6 and top-p 0.95, by both samplers."""
    common = {"model": str(tied), "difficulty": 1, "generated_problems": 8, "n": 16, "generated_max_new_tokens": 14}
    average = {}
    for sampler in ("transformers", "vllm"):
        folder = evaluation.evaluate(settings.load(**common, rollout=sampler, eval_dir=str(tmp_path / sampler)))
        [samples] = evaluation.read(folder)
        average[sampler] = samples.right.mean() / 16
    assert 0.05 < average["transformers"] < 0.95
    assert average["vllm"] == pytest.approx(average["transformers"], abs=0.2)  # four standard errors of 128 each


def test_heads_that_vllm_cannot_compute_on_a_cpu_are_named(small):
    with pytest.raises(ConfigError, match=r"heads have 16 dimensions; .* 32, 64, .*tiny\.hidden / tiny\.heads"):
        run(small, tiny={**small["tiny"], "heads": 4})


@pytest.mark.parametrize(
    ("kind", "size", "said"),
    [
        (
            Qwen3MoeForCausalLM,
            {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
            "a mixture of experts",
        ),
        (Olmo2ForCausalLM, {}, "vLLM has no model of its own for it"),
    ],
)
def test_models_that_it_would_sample_wrongly_are_refused(small, tied, tmp_path, kind, size, said):
    tokenizer = load_lm(tied)[1]
    size = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, **size}
    size |= {"vocab_size": len(tokenizer), "num_key_value_heads": 2, "eos_token_id": None, "pad_token_id": None}
    kind(kind.config_class(**size)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match=f"{said}.*rollout='transformers' samples it"):
        run(small, model=str(tmp_path / "model"))


def test_a_step_ahead_in_another_process(small):
    """Its engine has the weights that were pushed last, and what was begun before is by the ones before."""
    parts = Trainer(configs.make({**small, "asynchronous": True, "lr": 1e-2}))
    with closing(parts.sampler), closing(parts.task):
        distances = []
        for step in range(1, 4):
            batch, rewards, rolled = parts.collector.collect()
            if step < parts.config.steps:
                parts.collector.begin()
            batch, scored = parts.score(batch, rewards)
            distances.append(scored["mismatch/mean_abs"])
            assert rolled["staleness/steps"] == min(step - 1, 1)
            parts.update(step, batch.replace(advantage=batch.advantage.fill_(1.0)))
            parts.sampler.load(parts.engine.named_full_parameters())
            prompts, seeds = parts.collector._requests()
            fresh = parts.sampler.generate(prompts, [seed + 1 for seed in seeds], parts.collector.sampling)
            logp, _ = parts.engine.logp(fresh)
            assert (logp - fresh.rollout_logp).abs().max() <= 1e-4
    assert distances[0] < 1e-5 < 1e-3 < min(distances[1:])


def test_what_an_engine_took_is_given_back(small):
    """Its KV cache is 1 GiB, which vLLM keeps from the garbage collector until it is shut down."""
    seen = []
    for _ in range(3):
        parts = Trainer(configs.make(small))
        parts.sampler.close()
        del parts
        seen.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**30)
    assert seen[2] - seen[0] < 0.5, seen
