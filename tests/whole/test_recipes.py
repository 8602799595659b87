"""The recipes of the paper's experiments: what they say, what plan says of them, and two steps of each, scaled down."""

import math

import pytest
from running import TEMPLATE, random_model, some_problems
from transformers import AutoConfig

from dgpo import __main__ as cli
from dgpo import config as configs
from dgpo.cards import hardware_of
from dgpo.plan import predict
from dgpo.run.rows import read_rows
from dgpo.shapes import KNOWN
from dgpo.trainer import train

RECIPES = ("r1-distill-1.5b", "r1-distill-7b", "r1-distill-14b")


@pytest.mark.parametrize("name", RECIPES)
class TestRecipe:
    def test_it_says_what_is_published(self, name):
        config = configs.load(name)
        assert config.prompts_per_step == 512
        assert config.batch_size / config.num_minibatches / config.group_size == 32
        assert config.loss_aggregation == "token-mean"
        assert (config.kl_coef, config.entropy_coef, config.temperature) == (0, 0, 1)
        assert (config.method, config.epochs) == ("dgpo", 1)
        assert (config.importance_correction, config.importance_cap, config.max_mismatch) == ("tis-token", 2, 0.1)
        assert (config.method_params["n"], config.method_params["m"]) == ((2, 2) if "1.5b" in name else (1, 2))

    def test_its_model_is_one_that_plan_knows_and_it_fits_eight_h200(self, name, capsys):
        config = configs.load(name)
        assert config.model.rpartition("/")[2] in KNOWN
        assert cli.main(["plan", name, "--gpus", "8", "--memory", "141"]) == 0
        assert ": fits" in capsys.readouterr().out
        assert not predict(config, gpus=1).fits or "1.5b" in name

    @pytest.mark.parametrize("sampler", ["transformers", "vllm"])
    def test_it_starts_and_makes_two_steps(self, name, sampler, model, problems, tmp_path, monkeypatch):
        """The same settings on one CPU process, the same architecture small; every other answer is called right."""
        if sampler == "vllm":
            pytest.importorskip("vllm", reason="make test-vllm runs it")
        monkeypatch.setattr(
            "dgpo.tasks.math.MathTask.rewards", lambda self, problems, texts: [i % 2 for i in range(len(texts))]
        )
        scaled = {
            "prompts_per_step": 4,
            "group_size": 4,
            "rollout": sampler,
            "max_new_tokens": 12,
            "max_tokens_per_micro_batch": 2048,
        }
        small = {"steps": 2, "eval_problems": 2, "eval_samples": 1, "token_records": 64, "eval_every": 0}
        paths = {"model": str(model), "data": str(problems), "run_dir": str(tmp_path / "run")}
        folder = train(configs.load(name, **scaled, **small, **paths))
        rows = read_rows(folder / "metrics.jsonl")
        assert [row["step"] for row in rows] == [0, 1, 2]
        for row in rows[1:]:
            assert row["updates"] == 16
            assert row["grad_norm/max"] > 0
            assert math.isfinite(row["ratio/max"])


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """Rows of DAPO-Math-17k where the file is."""
    return some_problems(tmp_path_factory.mktemp("data") / "problems.jsonl", "dapo_math_17k", 200)


@pytest.fixture(scope="module")
def model(problems, tmp_path_factory):
    size = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 2}
    folder = random_model(tmp_path_factory.mktemp("model"), problems, TEMPLATE, **size)
    assert AutoConfig.from_pretrained(folder).model_type == "qwen2"
    return folder


def test_the_lora_recipe_fits_one_card_of_24_gb_and_whole_weights_do_not():
    card = hardware_of("h100", memory=24e9)
    config = configs.load("r1-distill-1.5b-lora")
    assert predict(config, 1, card).fits
    assert not predict(configs.load("r1-distill-1.5b-lora", lora={"r": 0}), 1, card).fits
