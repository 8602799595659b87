"""Trackers get a copy of a run's rows, by their own clients where these are installed (`make test-trackers`)."""

import struct
import sys
import warnings
from importlib import import_module
from types import SimpleNamespace

import pytest
from running import SMALL, rows, run
from watching import until

from dgpo import config as configs
from dgpo import config_rules
from dgpo.config import ConfigError
from dgpo.run.trackers import Tracked, Trackers

ID = "0123456789abcdef0123456789abcdef"


class Fake:
    """A client with wandb's functions, which notes what it is given and fails where it is told to."""

    __spec__ = "there"  # what importlib finds of a module that is imported

    def __init__(self, *fails):
        self.given, self.fails = [], fails

    def init(self, **settings):
        self._note("init", settings)
        return SimpleNamespace(
            define_metric=lambda *_, **__: None,
            log=lambda values: self._note("log", values),
            finish=lambda: self._note("finish", None),
        )

    def _note(self, name, value):
        self.given.append((name, value))
        print("a client talks")
        if name in self.fails:
            raise ConnectionError("no\nnetwork")

    def of(self, name):
        return [value for named, value in self.given if named == name]


def fill(name, folder, *steps):
    """A start of the run with these steps; `reward/mean` is half of the step."""
    trackers = Trackers([name], Tracked(ID, folder, {"seed": 3, "lr": 0.1}))
    for step in steps:
        trackers.log({"step": step, "reward/mean": step / 2, "eval/avg@8": None if step else 0.25})
    trackers.close()


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_one_that_fails_is_named_once_and_the_run_goes_on(monkeypatch, capsys, tmp_path, where):
    monkeypatch.setitem(sys.modules, "wandb", fake := Fake(where))
    fill("wandb", tmp_path, 0, 1, 2)
    said = capsys.readouterr()
    assert said.err.count("log_to: wandb failed and is left out from here on (ConnectionError: no network)") == 1
    assert not said.out, "what a client prints is no output of the run"
    assert [len(fake.of(name)) for name in ("init", "log", "finish")] == {
        "init": [1, 0, 0], "log": [1, 1, 0], "finish": [1, 3, 1]
    }[where]  # fmt: skip


def test_a_resumed_run_goes_on_in_the_trackers_same_run(monkeypatch, tmp_path, checkpoint):
    monkeypatch.setitem(sys.modules, "wandb", fake := Fake())
    settings = {**SMALL, "model": str(checkpoint), "run_dir": str(tmp_path / "run"), "log_to": ["wandb"]}
    run(settings, steps=1)
    folder = run(settings, steps=2, resume=True)
    assert [row["step"] for row in fake.of("log")] == [0, 1, 2]
    means = [row["eval/avg@2"] for row in rows(folder) if "eval/avg@2" in row]
    assert [row["eval/avg@2"] for row in fake.of("log") if "eval/avg@2" in row] == means
    first, second = fake.of("init")
    assert first["id"] == second["id"]
    assert (first["config"]["steps"], second["config"]["steps"]) == (1, 2)
    assert len(fake.of("finish")) == 2


def test_a_client_that_is_not_installed_is_named_before_training(monkeypatch):
    find = config_rules.importlib.util.find_spec
    monkeypatch.setattr(config_rules.importlib.util, "find_spec", lambda name: None if name == "mlflow" else find(name))
    config = configs.load("tiny", log_to=["tensorboard", "mlflow"])
    with pytest.raises(ConfigError, match=r"log_to=.*'mlflow'\] needs what is not installed: pip install mlflow"):
        config_rules.check_machine(config)


def test_wandb_offline(monkeypatch, tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed: make test-trackers")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for place, steps in (("a", (0, 1, 2)), ("b", (2, 3))):  # two places: wandb names a file by its second
        (tmp_path / place).mkdir()
        fill("wandb", tmp_path / place, *steps)
    expected = [(0, 0), (1, 0.5), (2, 1), (2, 1), (3, 1.5)]
    until(lambda: sorted(rows_of_wandb(tmp_path)) == expected, "the rows: its process may still be writing")


def rows_of_wandb(folder):
    """(step, reward) of each row in the offline files below a folder."""
    from wandb.proto.wandb_internal_pb2 import Record

    seen = []
    for path in folder.glob(f"*/wandb/offline-run-*-{ID}/*.wandb"):
        data, place = path.read_bytes(), 7  # behind the file's own head; each record has one of crc, length and kind
        while place + 7 <= len(data):
            _, length, kind = struct.unpack("<IHB", data[place : place + 7])
            if kind != 1 or place + 7 + length > len(data):
                break  # not whole yet
            record = Record.FromString(data[place + 7 : (place := place + 7 + length)])
            items = {i.nested_key[0] if i.nested_key else i.key: i.value_json for i in record.history.item}
            if "reward/mean" in items:
                seen.append((float(items["step"]), float(items["reward/mean"])))
    return seen


def test_trackio_on_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio", reason="trackio is not installed: make test-trackers")
    fill("trackio", tmp_path / "run", 0, 1, 2)
    fill("trackio", tmp_path / "run", 3)
    (found,) = trackio.Api().runs("dgpo")
    assert found.name == "run-01234567"
    assert found.config["seed"] == 3
    logs = import_module("trackio.sqlite_storage").SQLiteStorage.get_logs("dgpo", found.name)
    assert [(row["step"], row["reward/mean"]) for row in logs] == [(0, 0), (1, 0.5), (2, 1), (3, 1.5)]


def test_mlflow_in_a_folder(monkeypatch, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: make test-trackers")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fill("mlflow", tmp_path / "run", 0, 1, 2)
        fill("mlflow", tmp_path / "run", 3)
        client = mlflow.MlflowClient()
        (found,) = client.search_runs([client.get_experiment_by_name("dgpo").experiment_id])
        history = client.get_metric_history(found.info.run_id, "reward/mean")
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    assert found.data.params == {"seed": "3", "lr": "0.1"}
    assert found.data.metrics["eval/avg_8"] == 0.25
    assert [(m.step, m.value) for m in history] == [(0, 0), (1, 0.5), (2, 1), (3, 1.5)]
