"""Mistakes of the world: each ends in one line that names the culprit, and in its exit code; no traceback."""

import errno
import os
import signal
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest
import yaml
from launch import environment
from safetensors import SafetensorError
from watching import WATCHDOG

from analysis import runs
from dgpo import __main__ as cli
from dgpo import config as configs
from dgpo import errors, plan
from dgpo.config import Config, ConfigError
from dgpo.distributed import launcher, process_group
from dgpo.evaluation import settings
from dgpo.files import atomic_write
from dgpo.methods import base
from dgpo.plain import path_text
from dgpo.rollout.background import BackgroundSampler
from dgpo.sweeps import definition
from dgpo.written import read_mapping, read_words


@pytest.fixture
def said(capsys, monkeypatch, tmp_path):
    """A function that runs a command line in an empty folder: (exit code, what is on stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "dgpo.trainer", None)  # importing it would raise another error

    def run(*words):
        capsys.readouterr()
        return cli.main([*words]), capsys.readouterr().err

    return run


class TestFiles:
    """What is given as a recipe, a sweep, a problem file or a folder, and is none."""

    @pytest.fixture
    def odd(self, tmp_path):
        """Files that are not what they are given for, by name."""
        for name, content in {
            "latin": "run_dir: caf\xe9".encode("latin-1"),
            "utf16": "steps: 3".encode("utf-16"),
            "list": b"- steps\n- 3\n",
            "scalar": b"steps\n",
            "twice": b"steps: 3\nlr: 0.1\nsteps: 4\n",
            "broken": b"steps: [1\nlr: 2\n",
            "deep": b"[" * 500,
            "digits": b"steps: " + b"9" * 5000,
            "control": b"steps: \x01\n",
        }.items():
            (tmp_path / f"{name}.yaml").write_bytes(content)
        (tmp_path / "folder.yaml").mkdir()
        (tmp_path / "dangling.yaml").symlink_to("nowhere.yaml")
        (tmp_path / "round.yaml").symlink_to("round.yaml")

    @pytest.mark.parametrize(
        ("name", "word"),
        [
            ("latin", "is not UTF-8 text: unexpected end of data at byte 12"),
            ("utf16", "is not UTF-8 text: invalid start byte at byte 0"),
            ("list", "must be a mapping of settings, not list"),
            ("scalar", "must be a mapping of settings, not str"),
            ("twice", "'steps' occurs twice in one mapping, line 3, column 1"),
            ("broken", "is not valid YAML: "),
            ("deep", "is not valid YAML: "),
            ("digits", "is not valid YAML: "),
            ("control", "is not valid YAML: "),
            ("folder", "cannot be read: Is a directory"),
            ("dangling", "cannot be read: No such file"),
            ("round", "cannot be read: Too many levels of symbolic links"),
            ("a" * 300, "cannot be read: File name too long"),
            ("x/y", "cannot be read: No such file"),
            ("list.yaml/y", "cannot be read: Not a directory"),
        ],
    )
    def test_a_recipe_that_is_none(self, said, odd, name, word):
        for command in ("train", "sweep"):
            code, line = said(command, f"{name}.yaml")
            assert code == 2
            assert line.count("\n") == 1
            assert name in line
            assert word in line

    def test_a_folder_or_file_that_is_none(self, said, tmp_path):
        for words in (["eval", "--rescore", "x"], ["eval", "--compare", "x", "y"], ["data", "check", "x.jsonl"]):
            code, line = said(*words)
            assert code == 2
            assert line.startswith(("error: x", "error: y"))
            assert line.count("\n") == 1


class TestPlaces:
    """Errors of files and disks name the setting that led there."""

    @pytest.mark.parametrize(
        ("number", "code", "how"),
        [
            (errno.ENOSPC, 3, "cannot be written to: No space left"),
            (errno.EDQUOT, 3, "cannot be written to: Disk quota exceeded"),
            (errno.EROFS, 3, "cannot be written to: Read-only file system"),
            (errno.EIO, 3, "cannot be used: Input/output error"),
            (errno.EACCES, 2, "cannot be used: Permission denied"),
            (errno.EPERM, 2, "cannot be used: Operation not permitted"),
            (errno.ENOENT, 2, "cannot be used: No such file"),
            (errno.ENOTDIR, 2, "cannot be used: Not a directory"),
            (errno.EISDIR, 2, "cannot be used: Is a directory"),
            (errno.ENAMETOOLONG, 2, "cannot be used: File name too long"),
            (errno.ELOOP, 2, "cannot be used: Too many levels"),
        ],
    )
    def test_the_nearest_setting_is_to_blame(self, number, code, how):
        places = configs.load("tiny", run_dir="/a/run", data="/a/data", model="/a/run/policy").paths()
        for path, name in (
            ("/a/run/tokens/x", "run_dir='/a/run'"),
            ("/a/data", "data='/a/data'"),
            ("/a/run/policy/config.json", "model='/a/run/policy'"),
            (None, "run_dir='/a/run'"),  # a write to an open file names none
            ("/b", "'/b'"),
            ("/a/running", "'/a/running'"),
        ):
            message, exit_code = errors.explain(OSError(number, os.strerror(number), path), places)
            assert message.startswith(f"{name} {how}")
            assert exit_code == code

    def test_a_full_disk_that_safetensors_meets_names_the_file(self, tmp_path):
        def full(_):
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

        with pytest.raises(OSError, match="No space left") as error:
            atomic_write(tmp_path / "policy", full)
        assert errors.explain(error.value, {"run_dir='r'": tmp_path}) == (
            f"run_dir='r' cannot be written to: No space left on device ({tmp_path}/policy)",
            3,
        )

    @pytest.mark.parametrize(
        ("run_dir", "how"),
        [
            ("file/x", "file' is a file"),
            ("a" * 300, "cannot be used: File name too long"),
            ("round/x", "round' is a link to nothing"),
            ("closed/x", "no permission for '"),
        ],
    )
    def test_a_run_folder_that_cannot_be(self, capsys, monkeypatch, tmp_path, run_dir, how):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "file").touch()
        (tmp_path / "round").symlink_to("round")
        (tmp_path / "closed").mkdir()
        monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "closed")
        monkeypatch.setattr("dgpo.model.tiny.load_policy", lambda _: pytest.fail("nothing is loaded for it"))
        assert cli.main(["train", "tiny", f"run_dir={run_dir}"]) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"error: run_dir='{run_dir}'")
        assert how in line
        assert line.count("\n") == 1

    @pytest.mark.parametrize("variable", ["DGPO_CACHE", "XDG_CACHE_HOME", "HOME"])
    def test_a_cache_that_cannot_be_written_is_not_the_run_folder(self, capsys, monkeypatch, tmp_path, variable):
        for name in ("DGPO_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(variable, "/dev/null")
        assert cli.main(["train", "tiny", f"run_dir={tmp_path}/run"]) == 2
        line = capsys.readouterr().err
        assert line.startswith("error: the cache '/dev/null")
        assert "set DGPO_CACHE to a writable folder" in line
        assert "run_dir" not in line

    def test_an_error_of_one_rank_says_which(self):
        error = OSError(errno.ENOSPC, "No space left", "/a/x")
        error.add_note("rank 1 of 2 on host, in step 3")
        assert errors.explain(error)[0].endswith("No space left (rank 1 of 2 on host, in step 3)")

    def test_the_traceback_is_there_for_who_wants_it(self, said, monkeypatch):
        monkeypatch.setenv("DGPO_TRACEBACK", "1")
        code, lines = said("train", "stepz=1")
        assert code == 2
        assert lines.startswith("Traceback")
        assert "error: unknown setting stepz=1" in lines


class TestHome:
    """`~` is the home folder wherever a path is given, and is expanded where settings are read."""

    @pytest.fixture(autouse=True)
    def home(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        return tmp_path

    def test_in_every_setting_that_is_a_path(self, home):
        config = configs.load("tiny", run_dir="~/run", model="~", data="~/d.jsonl", eval_data="~/e.jsonl")
        assert (config.run_dir, config.model) == (f"{home}/run", str(home))
        assert (config.data, config.eval_data) == (f"{home}/d.jsonl", f"{home}/e.jsonl")
        evaluation = settings.load(eval_dir="~/e", model="~/m", data_dir="~/d")
        assert [*evaluation.paths().values()] == [f"{home}/e", f"{home}/m", f"{home}/d"]

    def test_in_recipes_sweeps_and_readers(self, home):
        (home / "r.yaml").write_text("run_dir: ~/run\n")
        assert configs.load("~/r.yaml").run_dir == f"{home}/run"
        fields = {"name": "s", "folder": "~/s", "recipe": "~/r.yaml", "factors": {"lr": [0.1]}, "seeds": [0]}
        (home / "s.yaml").write_text(yaml.safe_dump({**fields, "recipe": "tiny"}))
        assert definition.load("~/s.yaml").folder == f"{home}/s"
        with pytest.raises(runs.RunError, match=f"{home}/run is not"):
            runs.read("~/run")

    def test_of_nobody(self, said):
        for words in (["train", "run_dir=~nobody-here/x"], ["train", "~nobody-here/x.yaml"],
                      ["eval", "data_dir=~no-one"], ["data", "check", "~nobody-here/x.jsonl"],
                      ["sweep", "~nobody-here/s.yaml"],
                      ["eval", "--rescore", "~nobody-here"]):  # fmt: skip
            code, line = said(*words)
            assert code == 2
            assert "names a home folder that does not exist" in line


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
            plan.hardware_of(**given)

    @pytest.mark.parametrize("command", ["train tiny run_dir=made", "eval eval_dir=made", "sweep s.yaml folder=made"])
    def test_a_gpu_that_is_not_here(self, capsys, monkeypatch, tmp_path, command):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        Path("s.yaml").write_text("{name: s, factors: {lr: [0.1, 0.2]}, seeds: [0]}")
        assert cli.main([*command.split(), "device=cuda"]) == 2
        assert capsys.readouterr().err == "error: device='cuda', but there is no CUDA device here: 'cpu' or 'auto'\n"
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
        assert "error: step 0 of dgpo" in (line := capsys.readouterr().err)
        assert "eval/avg@2" in line

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


class TestSignals:
    """Real processes: Ctrl-C, and readers that leave."""

    def start(self, *words, stdout=subprocess.PIPE):
        environ = {**environment(), "PYTHONUNBUFFERED": ""}
        return subprocess.Popen([sys.executable, *words], stdout=stdout, stderr=subprocess.PIPE, text=True, env=environ)

    @pytest.mark.parametrize("command", [["train"], ["eval"], ["plan"], ["methods"], ["data", "check", "x"]])
    def test_ctrl_c_is_one_line(self, command, capsys, monkeypatch):
        def press(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(cli, f"_{command[0]}", press)
        assert cli.main(command) == 130
        assert capsys.readouterr().err == "interrupted\n"

    def test_ctrl_c_while_libraries_are_imported(self):
        code = (
            "import signal, sys\nfrom dgpo import __main__ as cli\nfrom dgpo.distributed import launcher\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job inherits that it is ignored
            "launcher.check = lambda: print('here', flush=True)\nsys.exit(cli.main(['train']))"
        )
        process = self.start("-c", code)
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=WATCHDOG)[1] == "interrupted\n"
        assert process.returncode == 130

    def test_a_reader_that_leaves(self):
        reading, writing = os.pipe()
        os.close(reading)
        process = self.start("-m", "dgpo", "--help", stdout=writing)
        os.close(writing)
        assert process.communicate(timeout=WATCHDOG)[1] == ""
        assert process.returncode == 141

    def test_a_full_standard_output(self):
        with open("/dev/full", "w") as full:
            process = self.start("-m", "dgpo", "--help", stdout=full)
            assert "standard output cannot be written to: No space left" in process.communicate(timeout=WATCHDOG)[1]
        assert process.returncode == 3
