"""Settings: what is accepted, and what is refused with which words."""

import math

import pytest

from dgpo import config as configs
from dgpo import methods
from dgpo.config import ConfigError
from dgpo.run import folder as runfolder
from dgpo.written import read_words


def test_the_recipe_and_its_overrides():
    config = configs.load("tiny", method="dgpo", n=2, lr="1e-4")
    assert config.method_params == {"eps_low": 0.2, "eps_high": 0.2, "n": 2, "m": 2.0}
    assert config.lr == 1e-4  # YAML 1.1 reads 1e-4 as a string
    assert config.loss_aggregation == "token-mean"
    assert configs.load("tiny", method="gspo").loss_aggregation == "seq-mean-token-mean"
    assert configs.load("tiny", method="gspo", loss_aggregation="token-mean").loss_aggregation == "token-mean"


def test_numbers_that_yaml_reads_as_text_are_numbers():
    assert configs.load("tiny", method="gspo", eps_low="3e-4").method_params["eps_low"] == 3e-4
    assert configs.load("tiny", n="inf").method_params["n"] == math.inf


def test_parameters_of_a_recipes_method_do_not_follow_another(tmp_path):
    configs.dump(configs.load("tiny", n=2), tmp_path / "c.yaml")
    assert configs.load(tmp_path / "c.yaml").method_params["n"] == 2
    assert configs.load(tmp_path / "c.yaml", method="grpo").method_params["eps_low"] == 0.2


@pytest.mark.parametrize("recipe", sorted(path.stem for path in configs.RECIPES.glob("*.yaml")))
def test_every_recipe_takes_every_method_with_its_own_defaults(recipe):
    configs.load(recipe)
    for key in methods.names():
        assert configs.load(recipe, method=key).make_method() == methods.get(key) or key == configs.load(recipe).method


def test_a_resolved_config_survives_writing_and_reading(tmp_path):
    config = configs.load("tiny", n=math.inf, betas=[0.9, 0.95])
    configs.dump(config, tmp_path / "c.yaml")
    assert configs.make(configs.read_recipe(tmp_path / "c.yaml")) == config


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            {"metod": "grpo"},
            [
                "unknown setting metod='grpo'",
                "did you mean 'method'",
                "run_dir",
                "parameters of method 'dgpo': eps_low",
            ],
        ),
        ({"method": "grop"}, ["method='grop'", "did you mean 'grpo'", "cispo"]),
        ({"method": "grpo", "n": 2}, ["unknown setting n=2", "dual_clip"]),
        ({"n": 0}, ["n=0", "(0, inf]"]),
        ({"eps_low": 1.2}, ["eps_low=1.2", "(0, 1)"]),
        ({"method_params": {"k": 1}}, ["'k'", "eps_low, eps_high, n, m"]),
        ({"task": "sudoku"}, ["task='sudoku'", "one of 'chain', 'countdown', 'words', 'math', or module:Class"]),
        ({"rollout": "sglang"}, ["rollout='sglang'", "'transformers'"]),
        ({"importance_correction": "tis"}, ["importance_correction='tis'", "'sequence-mask' or 'geometric-gate'"]),
        ({"importance_bounds": [2, 0.5]}, ["importance_bounds=[2.0, 0.5]", "first must be below the second"]),
        ({"kl_horizon": 500}, ["kl_horizon=500", "needs kl_target"]),
        ({"reward_weights": [1]}, ["reward_weights=[1.0]", "needs reward=module:function"]),
        ({"lora": 8}, ["lora=8", "lora.NAME=…"]),
        ({"lora": {"rank": 8}}, ["lora.rank=8", "unknown setting", "`python -m dgpo settings`"]),
        ({"betas": 0.9}, ["betas=0.9", "must be a list, such as betas=[…]"]),
        ({"log_to": "wandb"}, ["log_to='wandb'", "must be a list"]),
        ({"kl_target": 0.1}, ["kl_target=0.1", "needs kl_coef above 0"]),
        ({"kl_target": 0.1, "kl_coef": 0.1, "kl_horizon": 255}, ["kl_horizon=255", "256 completions of a step"]),
        ({"max_mismatch": 0}, ["max_mismatch=0", "greater than 0"]),
        ({"loss_aggregation": "mean"}, ["loss_aggregation='mean'", "token-mean"]),
        ({"advantage": "gae"}, ["advantage='gae'", "rloo"]),
        ({"steps": 2.5}, ["steps=2.5", "integer"]),
        ({"lr": 0}, ["lr=0", "greater than 0"]),
        ({"seed": "one"}, ["seed='one'"]),
        ({"tiny": {"width": 3}}, ["tiny.width=3"]),
        ({"num_minibatches": 7}, ["32 × 8 = 256", "num_minibatches=7"]),
        (
            {"max_tokens_per_micro_batch": 103},
            ["max_tokens_per_micro_batch=103", "max_prompt_tokens + max_new_tokens = 104"],
        ),
        ({"task": "math"}, ["needs data="]),
        ({"task": "math", "data": "x.jsonl"}, ["needs model="]),
        ({"schedule": "cosine", "warmup_updates": 480}, ["warmup_updates=480", "480"]),
        ({"group_size": 1, "filter_groups": "drop", "num_minibatches": 8}, ["group_size=1", "filter_groups='drop'"]),
        ({"group_size": 1, "advantage": "rloo", "filter_groups": "drop"}, ["group_size=1"]),
        ({"betas": [0.9, 1.5]}, ["betas.1=1.5", "less than 1"]),
        ({"method": ["dgpo"]}, ["method=['dgpo']", "grpo"]),
        ({"method_params": "n=2"}, ["method_params='n=2'", "mapping"]),
        ({"tiny": {"hidden": 30, "heads": 4}}, ["tiny.hidden=30", "tiny.heads=4"]),
        ({"method": "gmpo", "eps_high": 1000}, ["eps_high=1000", "(0, 10)"]),
        ({"method": "grpo", "dual_clip": 1.1}, ["dual_clip=1.1", "1.2"]),
        ({"lr": math.inf}, ["lr=inf"]),
        ({"entropy_coef": math.nan}, ["entropy_coef=nan"]),
        ({"steps": 0}, ["steps=0"]),
        ({"warmup_updates": 10**6}, ["warmup_updates=1000000"]),
        ({1: 2}, ["unknown setting 1=2"]),
        ({"lr": 0, "seed": -1}, ["lr=0", "seed=-1"]),
    ],
)
def test_what_is_refused_is_named_with_what_is_allowed(overrides, words):
    with pytest.raises(ConfigError) as error:
        configs.make({**configs.read_recipe("tiny"), **overrides})
    for word in words:
        assert word in str(error.value), str(error.value)


def test_recipes_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match=r"recipe 'tiney' is neither a YAML file nor one of: .*tiny"):
        configs.load("tiney")
    for text, words in (
        ("a: [", "not valid YAML"),
        ("- 1", "must be a mapping of settings, not list"),
        ("", "not NoneType"),
    ):
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(ConfigError, match=words):
            configs.load(tmp_path / "r.yaml")


def test_a_continued_run_may_get_more_steps_unless_its_schedule_ends_with_them():
    a = configs.load("tiny")
    assert runfolder.differences(a, configs.load("tiny", steps=500, checkpoint_every=3, resume=True)) == []
    assert runfolder.differences(a, configs.load("tiny", lr=1.0, seed=2)) == ["seed: 0 → 2", "lr: 0.0003 → 1.0"]
    cosine = configs.load("tiny", schedule="cosine")
    assert runfolder.differences(cosine, configs.load("tiny", schedule="cosine", steps=500)) == ["steps: 60 → 500"]


def test_an_empty_text_on_a_command_line_is_no_text(monkeypatch):
    """A shell makes instruction= of instruction=""."""
    values = read_words(["instruction="], configs.Config.texts())
    assert configs.load("tiny", **values).instruction == ""
