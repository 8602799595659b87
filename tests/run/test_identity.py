"""What a run was made of: noticed when it is another, accepted deliberately, and never two runs in one folder."""

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import running
import torch
from folders import MADE_OF, opened
from running import rows

from dgpo import config as configs
from dgpo import files
from dgpo.config import ConfigError
from dgpo.run import identity
from dgpo.run.identity import Identity
from dgpo.sweeps import execute


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
