"""What a run was made of: noticed when it is another, accepted deliberately, and never two runs in one folder."""

import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import running
import torch
from running import rows
from transformers import Qwen2ForCausalLM

from dgpo import __main__ as cli
from dgpo import config as configs
from dgpo import files, trainer
from dgpo.config import ConfigError, TinyPolicy
from dgpo.files import FolderLost
from dgpo.model import tiny
from dgpo.run import checkpoint as checkpoints
from dgpo.run import identity
from dgpo.run.checkpoint import CheckpointError
from dgpo.run.folder import RunFolder
from dgpo.run.identity import Identity
from dgpo.sweeps import execute

MADE_OF = {
    "data": {"data": 64 * "a", "eval_data": 64 * "b"},
    "model": {"config.json": 64 * "c", "model.safetensors": 64 * "d"},
    "prompts": {"the held-out problems": 64 * "e"},
    "code": {"dgpo": "0.1.0"},
    "parameters": {"lm.norm": "[32]"},
}


class TestIdentity:
    @pytest.mark.parametrize(
        ("kind", "item", "now", "said"),
        [
            (
                "data",
                "data",
                64 * "f",
                r"data: train\.jsonl changed since the start \(sha256 aaaaaaaa… → ffffffff…\)",
            ),
            ("data", "eval_data", None, r"data: eval_data changed since the start \(sha256 bbbbbbbb… → none\)"),
            (
                "model",
                "tokenizer.json",
                64 * "f",
                r"model: tokenizer\.json changed since the start \(sha256 none →",
            ),
            (
                "prompts",
                "the held-out problems",
                64 * "f",
                r"prompts: the held-out problems changed since the start",
            ),
            ("code", "dgpo", "0.2.0", r"code: dgpo changed since the start \(0\.1\.0 → 0\.2\.0\)"),
            (
                "parameters",
                "lm.norm",
                "[64]",
                r"parameters: lm\.norm changed since the start \(\[32\] → \[64\]\); over",
            ),
        ],
    )
    def test_what_is_another_is_named_and_can_be_accepted_and_is_then_recorded(self, kind, item, now, said):
        before = Identity.new(MADE_OF)
        changed = {**MADE_OF, kind: {k: v for k, v in {**MADE_OF[kind], item: now}.items() if v}}
        check = partial(before.check, changed, "here", acceptable=configs.ACCEPTABLE, names={"data": "train.jsonl"})
        with pytest.raises(ConfigError, match=rf"^here: {said}") as refused:
            check()
        assert "\n" not in str(refused.value)
        assert (f"accept_changes=[{kind}] accepts that" in str(refused.value)) == (kind != "parameters")
        with pytest.raises(ConfigError, match=said):
            check(accept=["metrics"])
        after = before.going_on(changed, check(accept=[kind]), "here", step=3)
        entry = {"step": 3, "what": kind, "item": item, "from": MADE_OF[kind].get(item), "to": now}
        assert after.accepted == [entry]
        assert after.check(changed, "here") == []
        assert after.id == before.id

    def test_several_changes_are_one_line_that_accepts_them_all(self):
        changed = MADE_OF | {"data": {"data": 64 * "0"}, "model": {}}
        with pytest.raises(ConfigError, match=r"data: .* and so did 1 more; model: .*accept_changes=\[data, model\]"):
            Identity.new(MADE_OF).check(changed, "here", acceptable=configs.ACCEPTABLE)

    def test_another_version_of_a_library_is_said_once(self, capsys):
        before = Identity.new(MADE_OF)
        before = before.model_copy(update={"versions": before.versions | {"torch": "1.0"}})
        after = before.going_on(MADE_OF, [], "here", step=2)
        assert f"here: from here on, sums may round differently: torch 1.0 → {torch.__version__.partition('+')[0]}" in (
            capsys.readouterr().err
        )
        assert after.going_on(MADE_OF, [], "here", step=2) == after
        assert capsys.readouterr().err == ""

    def test_files_are_known_by_content_wherever_they_are(self, tmp_path):
        for name, text in (("a.jsonl", "x"), ("b.jsonl", "x"), ("c.jsonl", "y")):
            (tmp_path / name).write_text(text)
        a, b, c = (identity.of_data({"data": tmp_path / f"{name}.jsonl", "eval_data": None}) for name in "abc")
        assert a == b != c
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "modeling.py").write_text("1")
        before = identity.of_model(tmp_path)
        assert [*before] == ["config.json", "modeling.py"]
        (tmp_path / "modeling.py").write_text("2")
        assert [change.item for change in identity.changes({"": before}, {"": identity.of_model(tmp_path)})] == [
            "modeling.py"
        ]

    def test_the_source_of_a_method_from_elsewhere_is_part_of_it(self, tmp_path, monkeypatch):
        from dgpo.methods import get_class

        monkeypatch.syspath_prepend(tmp_path)
        own = "import dataclasses, dgpo.methods\n@dataclasses.dataclass(frozen=True)\nclass M(dgpo.methods.Method):\n"
        found = []
        for power in (1, 2):
            (tmp_path / "mine_for_identity.py").write_text(f"{own}    power: float = {power}\n")
            sys.modules.pop("mine_for_identity", None)
            monkeypatch.setattr("dgpo.methods.base._REGISTRY", {})
            found.append(identity.of_code("mine_for_identity:M", get_class("mine_for_identity:M")))
        assert [*found[0]] == ["dgpo", "mine_for_identity:M"]
        assert [change.item for change in identity.changes({"": found[0]}, {"": found[1]})] == ["mine_for_identity:M"]


def test_the_runs_of_a_sweep_read_the_same_data(tmp_path):
    data = tmp_path / "train.jsonl"
    settings = {**running.SWEPT, "task": "math", "model": "some/model", "data": str(data)}
    sweep = running.sweep_in(tmp_path / "sweep", settings=settings)
    sweep.path.mkdir()
    pool = SimpleNamespace(call=lambda *_: {})  # no model is read
    for _ in range(2):
        data.write_text("one")
        execute._prepare(sweep, pool)
    data.write_text("other")
    with pytest.raises(ConfigError, match=r"its runs read problems from .*train\.jsonl with hash .* not be comparable"):
        execute._prepare(sweep, pool)


class Disk:
    """What the run did to its folder: `("sync", path, content)` and `("replace", from, to, files inside)`."""

    def __init__(self, folder, patch):
        self.folder, self.events = folder, []
        fsync, replace = os.fsync, os.replace

        def synced(handle):
            path = Path(os.readlink(f"/proc/self/fd/{handle}"))
            self.note("sync", path, path.read_text() if path.suffix == ".jsonl" else None)
            fsync(handle)

        def replaced(source, target):
            inside = [path for path in Path(source).rglob("*") if path.is_file()]
            self.note("replace", Path(source), Path(target), inside)
            replace(source, target)

        patch.setattr(os, "fsync", synced)
        patch.setattr(os, "replace", replaced)

    def note(self, what, path, *more):
        if path == self.folder or self.folder in path.parents:
            self.events.append((what, path, *more))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run of four steps with checkpoints of steps 2 and 4, and what it did to the disk."""
    folder = tmp_path_factory.mktemp("identity") / "run"
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(folder, patch)
        running.run(running.SMALL, run_dir=str(folder))
    return folder, disk.events


@pytest.fixture
def run(recorded, tmp_path):
    return shutil.copytree(recorded[0], tmp_path / "run")


def opened(folder, **settings):
    """The run in a folder, opened for going on with what it was made of."""
    made = RunFolder(configs.make({**running.SMALL, "run_dir": str(folder), "resume": True, **settings}))
    try:
        made.open(lambda: Identity.read(Path(folder) / "identity.json").made_of)
    except BaseException:
        made.close()
        raise
    return made


class TestDisk:
    def test_what_takes_its_name_is_on_the_disk_before_and_the_name_after(self, recorded):
        _, events = recorded
        synced = {}
        for i, (what, path, *more) in enumerate(events):
            if what == "sync":
                synced[path] = i
                continue
            target, inside = more
            assert all(part in synced for part in inside or [path]), f"{path} was renamed before it was synced"
            assert path in synced
            assert events[i + 1][:2] == ("sync", target.parent), f"the name {target} may be lost"
        renamed = [event[2].name for event in events if event[0] == "replace"]
        assert renamed.index("identity.json") < renamed.index("config.yaml")
        assert renamed[-2:] == ["policy", "summary.json"]

    def test_a_checkpoint_promises_only_what_is_there(self, recorded):
        folder, events = recorded
        for step in (2, 4):
            name = f"step_{step:06d}"
            scratch = files.temporary_path(folder / "checkpoints" / name)
            order = [event[1] for event in events]
            end = next(i for i, e in enumerate(events) if e[0] == "replace" and e[1] == scratch)
            shard, state, own = (order.index(scratch / f) for f in ("rank_00000.safetensors", "state.json", "."))
            assert shard < state < own < end
            metrics = [e[2] for e in events[:end] if e[:2] == ("sync", folder / "metrics.jsonl")]
            assert [json.loads(line)["step"] for line in metrics[-1].splitlines()] == [*range(step + 1)]
            assert ("sync", folder / "tokens" / f".{name}.parquet.partial") in [e[:2] for e in events[:end]]


def keep(*numbers):
    def damage(path):
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[n] if isinstance(n, int) else n for n in numbers))

    return damage


class TestMetrics:
    @pytest.mark.parametrize(
        ("damage", "said"),
        [
            (Path.unlink, "no row of steps 0–4"),
            (keep(), "no row of steps 0–4"),
            (keep(3, 4), "no row of steps 0–2"),
            (keep(0, 1, 3, 4), "no row of step 2"),
            (keep(0, 1, 2, b'{"step": 3, "rew'), "no row of steps 3–4"),
            (keep(0, 1, 1, 2, 3, 4), "step 1 has 2 rows"),
            (keep(0, 1, 2, 3, 4, 4), "step 4 has 2 rows"),
            (keep(0, 2, 1, 3, 4), "the row of step 2 is out of place"),
            (keep(0, b'{"step": 9}\n', 1, 2, 3, 4), "the row of step 9 is out of place"),
            (keep(0, b"5\n", 2, 3, 4), "line 2 is damaged: it has no step; no row of step 1"),
            (keep(0, 1, b"{}\n", 2, 3, 4), "line 3 is damaged: it has no step"),
            (keep(0, 1, b'{"step": true}\n', 2, 3, 4), "line 3 is damaged: it has no step"),
            (keep(0, 1, b'{"step": 2, "a": "\xff"}\n', 3, 4), "line 3 is damaged: 'utf-8' codec"),
            (keep(0, 1, b"[" * 100_000 + b"\n", 2, 3, 4), "line 3 is damaged: "),
        ],
    )
    def test_lost_doubled_and_garbled_rows_are_named_and_can_be_accepted(self, run, damage, said):
        damage(run / "metrics.jsonl")
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        with pytest.raises(ConfigError, match=rf"metrics\.jsonl, {said}.* steps 0–4 should have one row, in order\."):
            opened(run)
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        opened(run, accept_changes=["metrics"]).close()
        steps = [row["step"] for row in rows(run)]
        assert steps == sorted({*steps})
        opened(run).close()  # what was accepted is not asked again
        (entry,) = Identity.read(run / "identity.json").accepted
        assert (entry["step"], entry["what"], sorted({*steps, *entry["lost"]})) == (4, "metrics", [0, 1, 2, 3, 4])
        assert configs.read_recipe(run / "config.yaml")["accept_changes"] == []

    def test_what_follows_the_checkpoint_does_not_matter(self, run):
        whole = rows(run)
        with (run / "metrics.jsonl").open("ab") as file:
            file.write(b'{"step": 5}\n\0\0\0\nnothing\n{"step": 5}\n{"st')
        opened(run, steps=8).close()
        assert rows(run) == whole

    def test_a_run_that_has_lost_all_rows_ends_with_a_summary_once_that_is_accepted(self, run):
        (run / "metrics.jsonl").unlink()
        running.run(running.SMALL, run_dir=str(run), resume=True, accept_changes=["metrics"])
        summary = json.loads((run / "summary.json").read_text())
        assert (summary["steps"], summary["before"]) == (4, {})

    def test_files_that_are_not_the_runs_own_stay_and_stop_nothing(self, run, capsys):
        strangers = [run / "tokens" / "step_000003 (copy).parquet", run / "tokens" / "step_last.parquet"]
        for path in strangers:
            shutil.copy(run / "tokens" / "step_000003.parquet", path)
        shutil.copytree(run / "checkpoints" / "step_000002", run / "checkpoints" / "step_000002 (copy)")
        text = (run / "completions.jsonl").read_text()
        (run / "completions.jsonl").write_text("5\n" + text)
        opened(run).close()
        assert all(path.exists() for path in strangers)
        assert (run / "completions.jsonl").read_text() == text
        assert "completions.jsonl: dropped unreadable line 1" in capsys.readouterr().err


class TestRuns:
    def test_a_run_of_before_is_refused_and_a_spoilt_record_too(self, run):
        whole = json.loads((run / "identity.json").read_text())
        no_steps, no_kind = (json.dumps(whole | {"accepted": [entry]}) for entry in ({"what": "metrics"}, {"step": 1}))
        for content, said in ((b"5", ""), (b"\xff", ""), (b"{}", "id: Field required; overwrite=True starts afresh"),
                              (no_steps.encode(), "accepted: .* the list of steps"),
                              (no_kind.encode(), "accepted: .* lacks what was accepted")):  # fmt: skip
            (run / "identity.json").write_bytes(content)
            with pytest.raises(ConfigError, match=rf"identity\.json is damaged: {said}"):
                opened(run)
        (run / "identity.json").unlink()
        with pytest.raises(ConfigError, match=r"has no identity\.json.*It cannot be resumed: overwrite=True starts"):
            opened(run)

    def test_a_kill_while_it_is_overwritten_leaves_a_folder_that_can_be_used(self, run):
        for path in run.iterdir():
            if path.name != "identity.json":
                files.remove(path)
        before = Identity.read(run / "identity.json").id
        made = opened(run)
        made.close()
        assert made.identity.id != before

    def test_a_checkpoint_under_another_name_is_refused_and_nothing_is_lost(self, run):
        (run / "checkpoints" / "step_000004").rename(run / "checkpoints" / "step_000009")
        with pytest.raises(CheckpointError, match=r"step_000009 is the checkpoint of step 4: .* name it step_000004"):
            opened(run, steps=12)
        assert (run / "policy").exists()

    def test_a_run_that_has_ended_and_lost_its_checkpoints_keeps_its_policy(self, run):
        shutil.rmtree(run / "checkpoints")
        with pytest.raises(CheckpointError, match="has finished and has no checkpoint to continue from; overwrite"):
            opened(run, steps=8)
        assert (run / "policy" / "model.safetensors").exists()
        assert len(rows(run)) == 5

    @pytest.mark.parametrize(
        ("own", "said"),
        [
            ({"id": "f00"}, "id: '.*' → 'f00'"),
            ({"method": "grpo(eps_low=0.2)"}, r"method: 'dgpo\(.*\)' → 'grpo\(eps_low=0\.2\)'"),
            ({"seed": 7}, "seed: 0 → 7"),
        ],
    )
    def test_a_checkpoint_of_another_run_is_refused(self, run, own, said):
        folder = run / "checkpoints" / "step_000004"
        state = checkpoints.load_state(folder)
        del state["sha256"]
        state["run"] |= own
        state["sha256"] = checkpoints._digest_of(state)
        (folder / "state.json").write_text(json.dumps(state))
        with pytest.raises(CheckpointError, match=rf"step_000004 is a checkpoint of another run \({said}\): remove it"):
            opened(run)

    @pytest.mark.parametrize("hidden", [16, 64])
    def test_a_narrower_or_wider_model_is_refused_before_anything_is_filled(self, recorded, tmp_path, hidden):
        shape = tiny.shape(TinyPolicy(**running.SMALL["tiny"] | {"hidden": hidden}))
        Qwen2ForCausalLM(shape).save_pretrained(tmp_path / "model")
        tiny.chain.tokenizer().save_pretrained(tmp_path / "model")
        settings = {**running.SMALL, "run_dir": str(tmp_path / "run"), "model": str(tmp_path / "model")}
        made = trainer.Trainer(configs.make(settings))
        before = {name: weight.clone() for name, weight in made.engine.named_full_parameters()}
        said = rf"rank_00000\.safetensors is of a model of other shapes .* lm\.\S+ \[.*32\] → \[.*{hidden}\].* more"
        with pytest.raises(CheckpointError, match=said):
            made.engine.load(recorded[0] / "checkpoints" / "step_000004", 16)
        assert all(torch.equal(weight, before[name]) for name, weight in made.engine.named_full_parameters())

    def test_another_start_policy_is_named_and_accepted_deliberately(self, run, checkpoint, tmp_path, capsys):
        other = shutil.copytree(checkpoint, tmp_path / "other")
        words = [f"{k}={json.dumps(v)}" for k, v in running.SMALL.items() if k != "steps"]
        words = ["train", *words, f"run_dir={run}", "resume=true", f"model={other}"]
        assert cli.main([*words, "steps=4"]) == 0  # the same policy, elsewhere
        lm = Qwen2ForCausalLM.from_pretrained(other)
        with torch.no_grad():
            lm.model.norm.weight.mul_(1.5)
        lm.save_pretrained(other)
        capsys.readouterr()
        assert cli.main([*words, "steps=5"]) == 2
        said = capsys.readouterr().err
        assert "model: model.safetensors changed since the start (sha256 " in said
        assert cli.main([*words, "steps=5", "accept_changes=[model]"]) == 0
        (entry,) = Identity.read(run / "identity.json").accepted
        assert (entry["step"], entry["what"], entry["item"]) == (4, "model", "model.safetensors")


class TestOneRunAFolder:
    WRITERS = {
        "metrics": lambda run: run.append_metrics({"step": 5}),
        "completions": lambda run: run.append_completions([{"step": 5}]),
        "tokens": lambda run: run.write_tokens(5, pd.DataFrame()),
        "checkpoint": lambda run: run.save_checkpoint({"step": 5}, lambda folder: None),
        "failed": lambda run: run.save_failed(5, {}),
        "policy": lambda run: run.save_policy(lambda folder: None),
        "summary": lambda run: run.write_summary({}),
    }

    @pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
    def test_a_run_whose_folder_was_made_anew_writes_nothing_more(self, run, write):
        old = opened(run)
        shutil.rmtree(run)
        new = RunFolder(configs.make({**running.SMALL, "run_dir": str(run)}))
        new.open(lambda: MADE_OF)
        new.append_metrics({"step": 0})
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        with pytest.raises(FolderLost, match=r"^run_dir='.*/run' was moved, removed or replaced while"):
            write(old)
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        new.append_metrics({"step": 1})
        old.close()
        new.append_metrics({"step": 2})
        new.close()

    @pytest.mark.parametrize("lose", [shutil.rmtree, lambda run: run.rename(run.with_name("moved"))])
    def test_a_folder_that_is_gone_is_not_made_again(self, run, lose):
        old = opened(run)
        lose(run)
        with pytest.raises(FolderLost):
            old.append_metrics({"step": 5})
        assert not run.exists()

    def test_a_folder_whose_lock_file_was_removed_is_not_written_to(self, run):
        old = opened(run)
        (run / ".lock").unlink()
        new = opened(run)  # nothing keeps it from starting
        with pytest.raises(FolderLost):
            old.append_metrics({"step": 5})
        new.append_metrics({"step": 5})

    def test_a_checkpoint_in_the_making_does_not_touch_that_of_the_new_run(self, run):
        old, theirs = opened(run), run / "checkpoints" / ".step_000005.partial" / "rank_00000.safetensors"

        def write(folder):
            shutil.rmtree(run)
            new = RunFolder(configs.make({**running.SMALL, "run_dir": str(run)}))
            new.open(lambda: MADE_OF)
            theirs.parent.mkdir(parents=True)
            theirs.write_bytes(b"theirs")

        with pytest.raises(FolderLost):
            old.save_checkpoint({"step": 5}, write)
        assert theirs.read_bytes() == b"theirs"
        assert not list(run.glob("checkpoints/step_*"))

    def test_the_command_line_says_so_in_one_line(self, small, monkeypatch, capsys):
        update = trainer.Trainer.update

        def lost(self, step, batch):
            shutil.rmtree(small["run_dir"])
            return update(self, step, batch)

        monkeypatch.setattr(trainer.Trainer, "update", lost)
        assert cli.main(["train", *(f"{k}={json.dumps(v)}" for k, v in small.items())]) == 3
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert "the process stops and writes nothing more there" in line
        assert not Path(small["run_dir"]).exists()
