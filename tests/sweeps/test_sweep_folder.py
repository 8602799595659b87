"""The folder of a sweep: what may change in it, and what damage costs."""

import contextlib
import json
import multiprocessing
import shutil
import sys

import pytest
from running import LEVELS, SWEPT, sweep_in

from dgpo import config as configs
from dgpo.config import ConfigError
from dgpo.files import lock
from dgpo.sweeps import execute, report, table


class TestFolder:
    def test_it_may_grow_and_nothing_else(self, tmp_path):
        sweep = sweep_in(tmp_path / "s")
        execute.claim(sweep_in(tmp_path / "s", seeds=[0]))
        execute.claim(sweep)
        for changes, said in (
            ({"settings": {**SWEPT, "steps": 5}}, "cell 'grpo', steps: 3 → 5"),
            ({"factors": {"method": {"grpo": LEVELS["grpo"]}}}, "cell 'gppo' is gone"),
            ({"seeds": [0]}, "seed 1 is gone"),
        ):
            with pytest.raises(ConfigError, match="was made with another sweep") as error:
                execute.claim(sweep.model_copy(update=changes))
            assert said in str(error.value)

    def test_a_folder_with_other_things_is_not_touched(self, tmp_path):
        (tmp_path / "s").mkdir()
        (tmp_path / "s" / "thesis.tex").write_text("x")
        with pytest.raises(ConfigError, match="not empty and not a sweep"):
            execute.claim(sweep_in(tmp_path / "s"))
        assert [p.name for p in (tmp_path / "s").iterdir()] == ["thesis.tex"]

    def test_a_run_that_cannot_begin_says_why_in_one_line(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sys, "stderr", sys.__stderr__)  # file 2, as in a process that pytest does not capture
        run = sweep_in(tmp_path / "s").runs()[0]
        run.path.mkdir(parents=True)
        (run.path / "thesis.tex").write_text("x")
        process = multiprocessing.get_context("fork").Process(
            target=execute._train, args=(run.config, execute._log(run))
        )
        process.start()
        process.join()
        execute._write_note(run, process.exitcode)
        why = f"run_dir={str(run.path)!r} is not empty and not a run folder; nothing there was touched"
        assert execute.status(run) == ("failed", why)
        assert execute._log(run).read_text() == f"error: {why}\n"

    def test_a_run_of_other_settings_in_its_place(self, tmp_path):
        sweep = sweep_in(tmp_path / "s")
        run = sweep.runs()[0]
        execute.claim(sweep)
        run.path.mkdir(parents=True)
        configs.dump(run.config.model_copy(update={"lr": 0.5}), run.path / "config.yaml")
        with pytest.raises(ConfigError, match=r"holds a run of other settings: lr: 0\.5 → 0\.0003"):
            execute.claim(sweep)

    def test_runs_from_another_start_are_not_mixed(self, done, tmp_path):
        sweep = sweep_in(tmp_path / "s")
        execute.claim(sweep)
        known = json.loads((done[0].path / "policies.json").read_text())
        (sweep.path / "policies.json").write_text(json.dumps(dict.fromkeys(known, "0" * 64)))
        with pytest.raises(ConfigError, match="began from a policy tiny-"):
            execute.execute(sweep)
        assert not any(run.path.exists() for run in sweep.runs())

    def test_policies_whose_folders_have_one_name_are_told_apart(self, checkpoint, tmp_path):
        folders = [shutil.copytree(checkpoint, tmp_path / name / "policy") for name in ("a", "b")]
        (folders[1] / "generation_config.json").write_text('{"do_sample": true, "top_k": 3}')
        loaded = [configs.make({**SWEPT, "task": "chain", "model": str(folder)}) for folder in folders]
        found = execute._policies(loaded)
        assert sorted(found) == sorted(map(str, folders))
        assert len({*found.values()}) == 2

    def test_one_process_at_a_time_is_at_a_shard(self, tmp_path):
        sweep = sweep_in(tmp_path / "s")
        execute.claim(sweep)
        with (
            contextlib.closing(lock(sweep.path / ".running" / "1_of_2", "")),
            pytest.raises(ConfigError, match="shard 1/2: another process is using it"),
        ):
            execute.execute(sweep, shard=(1, 2))

    def test_a_moved_folder_is_read_where_it_is(self, done, tmp_path):
        sweep, _, frame = done
        moved = tmp_path / "moved"
        shutil.copytree(sweep.path, moved)
        assert table.read(moved).path == moved
        assert table.collect(table.read(moved)).equals(frame)
        with pytest.raises(ConfigError, match=r"has no sweep\.yaml"):
            table.read(tmp_path)


class TestDamage:
    """One damaged file costs its own run a row that names it; the others, the table and the report stay."""

    @pytest.fixture
    def copy(self, done, tmp_path):
        shutil.copytree(done[0].path, tmp_path / "copy")
        return table.read(tmp_path / "copy")

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            *[("seed_0/summary.json", content) for content in ("", "{}", "[]", '{"steps": 3}', None)],
            *[("seed_0/metrics.jsonl", content) for content in ("", "{\n", "{}\n", None)],
            *[("seed_0/config.yaml", content) for content in ("", "{}", "lr: [", None)],
            *[("seed_0.json", content) for content in ("{", "{}", None)],
        ],
    )
    def test_of_a_run(self, copy, name, content):
        cell = "wild" if name == "seed_0.json" else "grpo"
        path = copy.path / cell / name
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
        execute.check(copy)
        frame = table.collect(copy)
        text = report.write(copy, frame)
        assert {("grpo", 1), ("gppo", 0), ("gppo", 1), ("wild", 1)} <= {*zip(frame["cell"], frame["seed"], strict=True)}
        if content is None and name in ("seed_0/summary.json", "seed_0.json"):
            assert "unfinished" in text  # as if it had not come so far
        else:
            assert f"- {cell} seed 0 failed: " in text
            assert str(path) in text

    @pytest.mark.parametrize("lines", [[0, 1, 2], [0, 1, 1, 2, 3]])
    def test_rows_that_are_lost_or_twice(self, copy, lines):
        path = copy.path / "grpo" / "seed_0" / "metrics.jsonl"
        rows = path.read_text().splitlines(keepends=True)
        path.write_text("".join(rows[i] for i in lines))
        text = report.report(copy, table.collect(copy))
        assert f"grpo seed 0 failed: {path} lacks rows, or has some twice; remove {path.parent}" in text

    @pytest.mark.parametrize("content", ["", "{", "[]"])
    def test_of_the_hashes_of_the_start(self, copy, content):
        path = copy.path / "policies.json"
        path.write_text(content)
        assert f"Start: {path} is damaged" in report.report(copy, table.collect(copy))
        with pytest.raises(ConfigError, match=r"policies\.json is damaged"):
            execute.start_policies(copy)
