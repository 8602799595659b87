"""Mistakes of the world: each ends in one line that names the culprit, and in its exit code; no traceback."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from launch import environment
from safetensors import SafetensorError
from watching import WATCHDOG

from analysis import runs
from dgpo import __main__ as cli
from dgpo import config as configs
from dgpo import errors
from dgpo.evaluation import settings
from dgpo.files import atomic_write
from dgpo.sweeps import definition


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
