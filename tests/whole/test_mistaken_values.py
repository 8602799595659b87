"""Mistakes in what is given as a value, as code of one's own and by a launcher: each ends in one line that names it."""

import sys
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest
import yaml

from dgpo import __main__ as cli
from dgpo import cards
from dgpo import config as configs
from dgpo.config import Config, ConfigError
from dgpo.distributed import launcher, process_group
from dgpo.evaluation import settings
from dgpo.methods import base
from dgpo.plain import path_text
from dgpo.rollout.background import BackgroundSampler
from dgpo.sweeps import definition
from dgpo.written import read_mapping, read_words


class TestValues:
    @pytest.mark.parametrize("make", [configs.load, settings.load, lambda **k: configs.load("tiny", tiny=k),
                                      lambda **k: configs.load("tiny", vllm=k)])  # fmt: skip
    def test_no_number_is_true_or_without_end(self, make):
        own = {"load": Config, "<lambda>": None}[make.__name__]
        if make is settings.load:
            own = settings.EvalConfig
        for model in [own] if own else (configs.TinyPolicy, configs.VLLM):
            for name, field in model.model_fields.items():
                if type(field.default) not in (int, float):
                    continue
                for value in (True, False, 1e30, -1e30, float("inf"), float("nan")):
                    with pytest.raises(ConfigError, match=f"{name}="):
                        make(**{name: value})

    def test_what_is_allowed_is_said(self):
        for name, largest in (("steps", "2147483647"), ("seed", "9223372036854775808"), ("timeout", "1000000000")):
            with pytest.raises(ConfigError, match=f"{name}=1e\\+30: input should be less than .*{largest}"):
                configs.load("tiny", **{name: 1e30})

    def test_a_time_out_may_be_longer_than_a_wait_of_the_system(self):
        ours, theirs = Pipe()
        theirs.send_bytes(b".")
        sampler = BackgroundSampler.__new__(BackgroundSampler)
        sampler.timeout, sampler._pipe = configs.load("tiny", timeout=1e9).timeout, ours
        assert sampler._answers()
        sampler.timeout = 0.0
        ours.recv_bytes()
        assert not sampler._answers()

    @pytest.mark.parametrize("value", [True, [True], 1e30])
    def test_lists_of_numbers_are_no_exception(self, value):
        for given in ({"k": value}, {"benchmarks": True}):
            with pytest.raises(ConfigError):
                settings.load(**given)
        with pytest.raises(ConfigError, match="seeds"):
            definition.make({"name": "s", "folder": "f", "factors": {"lr": [1]}, "seeds": value})

    def test_numbers_of_numpy_and_paths_are_as_good_as_pythons_own(self, tmp_path):
        given = {"n": np.float64(2), "m": np.int64(3), "lr": np.float32(0.5), "seed": np.int64(7), "steps": np.int32(3),
                 "betas": np.array([0.5, 0.75]), "run_dir": tmp_path / "run", "resume": np.bool_(True)}  # fmt: skip
        config = configs.load("tiny", **given)
        configs.dump(config, tmp_path / "c.yaml")
        assert configs.make(configs.read_recipe(tmp_path / "c.yaml")) == config
        assert config.method_params == {"eps_low": 0.2, "eps_high": 0.2, "n": 2.0, "m": 3}
        assert (config.run_dir, config.betas, config.resume) == (f"{tmp_path}/run", (0.5, 0.75), True)

    @pytest.mark.parametrize("value", [0, False, "", [], "n=2"])
    def test_method_params_are_a_mapping(self, value):
        with pytest.raises(ConfigError, match=r"method_params=.* must be a mapping"):
            configs.load("tiny", method_params=value)

    def test_words_mean_what_is_typed(self, tmp_path):
        words = ["seed=010", "run_dir=007", "model=1.50", "data=null", "eval_data=~", "problem_field='x'", "lr=1e-3"]
        config = configs.load("tiny", **read_words(words, Config.texts()))
        assert (config.seed, config.run_dir, config.model, config.data) == (10, "007", "1.50", None)
        assert (config.eval_data, config.problem_field, config.lr) == (str(Path.home()), "x", 1e-3)
        (tmp_path / "r.yaml").write_text("run_dir: 2024-05-01\nseed: 010\nresume: yes\n")
        config = configs.load(tmp_path / "r.yaml")
        assert (config.run_dir, config.seed, config.resume) == ("2024-05-01", 10, True)
        assert configs.load("tiny", run_dir=12345).run_dir == "12345"

    def test_what_is_dumped_is_read_as_it_was(self, tmp_path):
        values = {"a": "010", "b": "1:30", "c": "2024-05-01", "d": "yes", "e": "1e-4", "f": 1e-05, "g": 1e30,
                  "h": "0x1", "i": float("inf"), "j": True, "k": None, "l": "~", "n": -3, "é": [1.5]}  # fmt: skip
        (tmp_path / "v.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), "utf-8")
        assert read_mapping(tmp_path / "v.yaml", "values") == values

    @pytest.mark.parametrize("text", ["a\0b", "a\udcff"])
    def test_what_no_path_can_be(self, text):
        with pytest.raises(ConfigError, match="cannot be a path"):
            path_text(text)

    @pytest.mark.parametrize(
        "given",
        [{"memory": float("inf")}, {"mfu": 2.0}, {"bandwidth": -1.0}, {"flops": 1e30}, {"memory": float("nan")}],
    )
    def test_hardware_that_there_is_not(self, given):
        with pytest.raises(ConfigError, match=r"must be in \(0, "):
            cards.hardware_of(**given)

    @pytest.mark.parametrize("command", ["train tiny run_dir=made", "eval eval_dir=made", "sweep s.yaml folder=made"])
    def test_a_gpu_that_is_not_here(self, capsys, monkeypatch, tmp_path, command):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        Path("s.yaml").write_text("{name: s, factors: {lr: [0.1, 0.2]}, seeds: [0]}")
        assert cli.main([*command.split(), "device=cuda"]) == 2
        assert capsys.readouterr().err == (
            "error: device='cuda' needs a CUDA device, and this machine has none: use 'cpu' or 'auto'\n"
        )
        assert not Path("made").exists()
        configs.load("tiny", device="cuda", liger=True)  # to read and to plan need none


class TestOwnCode:
    """Faults in a method of the user's own."""

    @pytest.mark.parametrize(
        ("body", "code", "words"),
        [
            ("def broken(:\n", 3, "method_of_mine.py, line 1: SyntaxError"),
            ("import torch\n1 / 0\n", 3, "method_of_mine.py, line 2, in <module>: ZeroDivisionError: division by zero"),
            ("from dgpo.methods import Nothing\n", 3, "method_of_mine.py, line 1, in <module>: ImportError"),
            ("import nothing_of_that_name\n", 2, "no module named 'nothing_of_that_name'"),
            ("Mine = 3\n", 2, "method='method_of_mine:Mine'"),
            ("{head}    power: float\n", 2, "needs power=..., which has no default"),
            ("{head}    def __post_init__(self):\n        {}['k']\n", 3, "line 6, in __post_init__: KeyError"),
        ],
    )  # fmt: skip
    def test_what_fails_before_the_run(self, said, tmp_path, monkeypatch, body, code, words):
        head = "from dataclasses import dataclass\nfrom dgpo.methods import Method\n"
        head += "@dataclass(frozen=True)\nclass Mine(Method):\n"
        name = f"method_of_{len(body)}"  # a module is imported once
        (tmp_path / f"{name}.py").write_text(body.replace("{head}", head))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(base, "_REGISTRY", {**base._REGISTRY})
        result, line = said("train", f"method={name}:Mine")
        assert result == code
        assert words.replace("method_of_mine", name) in line
        assert line.count("\n") == 1

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ("        return logp.sum(-1)\n", "Mine.weight returned torch.float32 ("),
            ("        return logp @ logp\n", "line 6, in weight: RuntimeError: "),
        ],
    )
    def test_what_fails_in_the_run(self, small, capsys, tmp_path, monkeypatch, body, words):
        name = f"weight_of_{len(body)}"
        head = "from dataclasses import dataclass\nfrom dgpo.methods import Method\n@dataclass(frozen=True)\n"
        head += "class Mine(Method):\n    def weight(self, logp, old_logp, advantage, mask=None):\n"
        (tmp_path / f"{name}.py").write_text(head + body)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(base, "_REGISTRY", {**base._REGISTRY})
        monkeypatch.setattr("dgpo.trainer.Trainer.report", lambda *_: None)  # without the evaluation before the run
        settings = {**small, "method": f"{name}:Mine"}
        assert cli.main(["train", "tiny", *(f"{k}={v}" for k, v in settings.items())]) == 3
        line = capsys.readouterr().err
        assert words in line
        assert line.count("\n") == 1

    def test_rewards_that_are_no_numbers_are_told(self, small, capsys, monkeypatch):
        monkeypatch.setattr(
            "dgpo.tasks.chain.ChainTask.rewards", lambda _, problems, __: [float("nan")] * len(problems)
        )
        assert cli.main(["train", "tiny", *(f"{k}={v}" for k, v in small.items())]) == 3
        said = "error: task='dgpo.tasks.chain:ChainTask': rewards returned nan for "
        assert said in (line := capsys.readouterr().err)
        assert "expected a finite number" in line

    def test_a_bug_keeps_its_traceback(self, said, monkeypatch):
        monkeypatch.delattr(cli, "_flush")  # any fault in a file of the package
        with pytest.raises(NameError):
            said("methods")


class TestLauncher:
    WHOLE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}

    @pytest.mark.parametrize(
        ("environ", "words"),
        [
            ({"RANK": "0", "WORLD_SIZE": "1"}, "RANK=0 WORLD_SIZE=1, but no MASTER_ADDR or MASTER_PORT"),
            ({"RANK": "0"}, "RANK=0, but no WORLD_SIZE or MASTER_ADDR"),
            ({"RANK": "abc"}, "RANK='abc' must be a whole number"),
            ({"LOCAL_RANK": ""}, "LOCAL_RANK='' must be a whole number"),
            ({"LOCAL_RANK": "x"}, "LOCAL_RANK='x' must be a whole number"),
            ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2, but no RANK"),
            ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0' must be a whole number of at least 1"),
            ({"LOCAL_RANK": "3"}, "LOCAL_RANK=3, but no RANK"),
            ({**WHOLE, "RANK": "2"}, "RANK must be below WORLD_SIZE"),
            ({**WHOLE, "MASTER_PORT": "x"}, "MASTER_PORT must be a port number"),
            ({**WHOLE, "MASTER_ADDR": ""}, "but no MASTER_ADDR"),
        ],
    )
    @pytest.mark.parametrize("command", [["train"], ["eval"], ["sweep", "x.yaml"]])
    def test_what_no_launcher_sets_is_named_with_the_way_out(self, said, monkeypatch, command, environ, words):
        monkeypatch.setitem(sys.modules, "dgpo.config", None)  # before anything that takes seconds
        for name in self.WHOLE:
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        code, line = said(*command)
        assert code == 2
        assert words in line
        assert line.endswith("unset RANK WORLD_SIZE LOCAL_RANK\n")

    @pytest.mark.parametrize("environ", [WHOLE, {}, {"LOCAL_RANK": "0"}, {"WORLD_SIZE": "1"}])
    def test_what_launchers_set_is_fine(self, environ):
        launcher.check(environ)

    def test_an_error_that_all_ranks_share_is_marked(self, monkeypatch):
        def fail():
            raise ConfigError("no such model")

        for others, common in (("ConfigError: no such model", True), (None, False), ("ConfigError: another", False)):
            monkeypatch.setattr(process_group, "all_gather_object", lambda mine, others=others: [mine, others])
            with pytest.raises(ConfigError) as error:
                process_group.on_all_ranks(fail)
            assert error.value.is_common == common
        monkeypatch.setattr(process_group, "all_gather_object", lambda _: [None, "ConfigError: no such model"])
        with pytest.raises(process_group.RanksError, match="rank 1: ConfigError: no such model"):
            process_group.on_all_ranks(int)
