"""Evaluation of checkpoints: folders that survive a kill, refusals."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest
import torch
from running import OWN, ROOT, random_model, some_problems
from watching import until

from analysis import evaluations
from dgpo import __main__ as cli
from dgpo.config import ConfigError
from dgpo.data.files import DataError
from dgpo.evaluation import benchmarks, report, run, settings
from dgpo.evaluation.folder import COLUMNS, EvaluationError, EvaluationFolder
from dgpo.evaluation.scores import pass_curve
from dgpo.files import FolderLost, lock


def test_top_p_keeps_the_fewest_words_that_make_it_up():
    from dgpo.rollout import Sampling
    from dgpo.rollout.transformers import _Draw

    weights = torch.tensor([[0.1, 0.5, 0.25, 0.15]]).repeat(4000, 1)
    draw = _Draw(list(range(4000)), Sampling(1, 1.0, top_p=0.7), "cpu")
    token = draw(None, weights.log()).argmax(1)
    assert set(token.tolist()) == {1, 2}
    assert (token == 1).float().mean() == pytest.approx(2 / 3, abs=0.03)
    torch.testing.assert_close(draw.logp[0], weights.log()[0][token])  # not renormalised


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return random_model(tmp_path_factory.mktemp("model"), OWN, words=400, **size)


@pytest.fixture
def data_dir(tmp_path):
    """A folder with fifty real problems as `math500` where the file is, else the repository's own."""
    (tmp_path / "data").mkdir()
    return some_problems(tmp_path / "data" / "math500.jsonl", "math500", 50).parent


@pytest.fixture
def given(model, data_dir, tmp_path):
    return {
        "eval_dir": str(tmp_path / "eval"),
        "model": str(model),
        "data_dir": str(data_dir),
        "benchmarks": ["math500"],
        "n": 4,
        "max_new_tokens": 8,
        "chunk_rows": 30,
    }


def contents(folder):
    chunks = sorted(Path(folder).glob("completions/*/*.parquet"))
    return pd.concat([pd.read_parquet(c) for c in chunks]).map(lambda v: v.tolist() if hasattr(v, "tolist") else v)


class TestFolder:
    def test_random_weights_on_real_problems_are_all_wrong_but_counted_stored_and_judged_again(self, given, capsys):
        assert cli.main(["eval", *(f"{k}={json.dumps(v)}" for k, v in given.items())]) == 0
        assert "avg@4     0.0 [0.0," in capsys.readouterr().out
        folder = EvaluationFolder(given["eval_dir"])
        P, rows = len(folder.problems("math500")), contents(folder.path)
        assert P in (42, 50)
        assert len(rows) == 4 * P
        assert set(rows["verdict"]) <= {"no_answer", "wrong", "unparsed"}
        assert rows["seed"].is_unique
        assert rows["tokens"].map(len).tolist() == rows["length"].tolist()
        (row,) = json.loads((folder.path / "results.json").read_text())
        assert (row["problems"], row["n"], row["avg@4"]) == (P, 4, 0.0)
        assert row["verdict/no_answer"] == (rows["verdict"] == "no_answer").mean()

        # One completion is made right behind its back: only judging again finds it.
        chunk, places = folder.chunks("math500")[0]
        columns = folder.read("math500", chunk, places)
        columns["text"][0] = rf"so it is \boxed{{{folder.problems('math500')['answer'][0]}}}"
        folder.write("math500", chunk, columns)
        assert cli.main(["eval", "--rescore", given["eval_dir"]]) == 0
        (row,) = json.loads((folder.path / "results.json").read_text())
        assert row["avg@4"] == pytest.approx(1 / (4 * P))
        assert pd.read_parquet(folder.path / "per_problem.parquet")["right"].tolist() == [1] + [0] * (P - 1)
        assert cli.main(["eval", "--compare", given["eval_dir"], given["eval_dir"]]) == 0
        said = capsys.readouterr().out
        assert "p = 1.0000" in said
        assert "warning" not in said

    def test_a_killed_evaluation_goes_on_and_is_as_if_undisturbed(self, given, tmp_path):
        given |= {"n": 8, "chunk_rows": 20, "max_new_tokens": 32}
        words = [f"{k}={json.dumps(v)}" for k, v in given.items()]
        process = subprocess.Popen([sys.executable, "-m", "dgpo", "eval", *words], cwd=ROOT, stderr=subprocess.DEVNULL)
        chunks = Path(given["eval_dir"]) / "completions" / "math500"
        until(lambda: len(list(chunks.glob("*.parquet"))) >= 2 or process.poll() is not None, "two pages")
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = {path: path.stat().st_mtime_ns for path in chunks.glob("rows_*.parquet")}
        with pytest.raises(EvaluationError, match=r"math500 have fewer than n=8 completions; the first, .*has"):
            list(run.read(given["eval_dir"]))
        run.evaluate(settings.load(**given))
        assert 2 <= len(done) < len(list(chunks.glob("*.parquet")))
        assert all(path.stat().st_mtime_ns == stamp for path, stamp in done.items()), "done work was made again"
        run.evaluate(settings.load(**{**given, "eval_dir": str(tmp_path / "other"), "chunk_rows": 1000}))
        pd.testing.assert_frame_equal(
            contents(given["eval_dir"]).reset_index(drop=True), contents(tmp_path / "other").reset_index(drop=True)
        )

    def test_a_larger_n_adds_the_completions_that_a_whole_evaluation_would_have(self, given, tmp_path):
        def ordered(folder):
            return contents(folder).sort_values(["index", "sample"]).reset_index(drop=True)

        given |= {"n": 2, "max_new_tokens": 4, "limit": 12, "chunk_rows": 10, "eval_dir": str(tmp_path / "grown")}
        run.evaluate(settings.load(**given))
        (tmp_path / "grown" / "completions" / "math500" / "rows_000010.parquet").unlink()  # also with one unfinished
        for n in (3, 5):
            (result,) = run.read(run.evaluate(settings.load(**{**given, "n": n})))
            assert result.n == n
        run.evaluate(settings.load(**{**given, "n": 5, "eval_dir": str(tmp_path / "whole")}))
        pd.testing.assert_frame_equal(ordered(tmp_path / "grown"), ordered(tmp_path / "whole"))
        (whole,) = run.read(tmp_path / "whole")
        assert (result.verdicts == whole.verdicts).all()
        assert (result.lengths == whole.lengths).all()
        run.rescore(tmp_path / "grown")
        assert EvaluationFolder(tmp_path / "grown").config.n == 5
        with pytest.raises(EvaluationError, match="other settings: n: 5 → 2"):
            run.evaluate(settings.load(**given))

    def test_one_process_at_a_time(self, given):
        config = settings.load(**{**given, "n": 1, "max_new_tokens": 2, "limit": 4})
        run.evaluate(config)
        with lock(Path(given["eval_dir"]), "here"):
            for again in (lambda: run.evaluate(config), lambda: run.rescore(given["eval_dir"])):
                with pytest.raises(ConfigError, match="another process is using it"):
                    again()
            assert len(list(run.read(given["eval_dir"]))) == 1, "reading is free"
        run.rescore(given["eval_dir"])

    def test_an_engine_spread_over_ranks_is_refused(self, given, monkeypatch):
        monkeypatch.setattr("dgpo.distributed.process_group.world_size", lambda: 2)
        config = settings.load(**given, rollout="vllm", vllm={"tensor_parallel": 2})
        with pytest.raises(ConfigError, match=r"vllm\.tensor_parallel=2 must be 1 in an evaluation"):
            run.evaluate(config)

    def test_a_trained_kind_of_policy_on_chain(self, checkpoint, tmp_path):
        config = settings.load(
            model=str(checkpoint), eval_dir=str(tmp_path), difficulty=1, generated_problems=20, n=64, max_new_tokens=14
        )
        (result,) = run.read(run.evaluate(config))
        assert result.sampling == {
            "temperature": 0.6, "top_p": 0.95, "dtype": "float32", "head_dtype": "model", "rollout": "transformers",
            "generated_max_new_tokens": 40, "reward": [], "reward_weights": [], "right_above": 1.0,
        }  # fmt: skip
        assert result.right.shape == (20,)
        assert 0 < result.right.sum() < 64 * 20
        curve = pass_curve(result)["pass"]
        assert (np.diff(curve) >= 0).all()
        assert curve.iloc[0] == result.right.mean() / 64


def test_completions_of_other_settings_are_compared_with_a_warning(given, tmp_path):
    """The very same policy, looked at in two ways: whatever the numbers say, it is not a difference of policies."""
    given |= {"n": 2, "limit": 4, "max_new_tokens": 2}
    ways = {"cold": {"temperature": 0.05}, "warm": {"temperature": 1.0, "max_new_tokens": 3, "chunk_rows": 7}}
    for name, way in ways.items():
        run.evaluate(settings.load(**{**given, **way, "eval_dir": str(tmp_path / name)}))
    said = report.differences(tmp_path / "cold", tmp_path / "warm")
    assert said.endswith("they were sampled with temperature: 0.05 → 1.0; max_new_tokens: 2 → 3")
    found = evaluations.read({name: tmp_path / name for name in ways})
    table = evaluations.differences(found, "warm")
    assert table["not sampled alike"].tolist() == ["temperature: 0.05 → 1.0; max_new_tokens: 2 → 3"]


class TestRefusals:
    @pytest.fixture
    def done(self, given):
        given |= {"n": 2, "max_new_tokens": 2, "limit": 12, "chunk_rows": 10}
        run.evaluate(settings.load(**given))
        return given

    def test_another_model_another_revision_other_settings(self, done, model, data_dir, tmp_path):
        import shutil

        other = tmp_path / "other"
        shutil.copytree(model, other)
        (other / "generation_config.json").write_text('{"do_sample": true, "top_k": 3}')
        with pytest.raises(
            EvaluationError,
            match=r"model: generation_config\.json changed since .*overwrite=True",
        ):
            run.evaluate(settings.load(**{**done, "model": str(other)}))
        with pytest.raises(EvaluationError, match=r"other settings: temperature: 0\.6 → 1\.0"):
            run.evaluate(settings.load(**{**done, "temperature": 1.0}))
        (data_dir / "math500.jsonl").write_text((data_dir / "math500.jsonl").read_text() + "\n")
        for again in (lambda: run.evaluate(settings.load(**done)), lambda: run.rescore(done["eval_dir"])):
            with pytest.raises(EvaluationError, match="data: math500 changed since the start"):
                again()

    def test_spoilt_completion_files(self, done, tmp_path):
        first, second, _ = sorted(Path(done["eval_dir"]).glob("completions/math500/*.parquet"))
        whole = first.read_bytes()
        column = parquet.ParquetFile(first).metadata.row_group(0).column(COLUMNS.index("verdict"))
        at = column.dictionary_page_offset + column.total_compressed_size - 1  # one byte of its last page
        flipped = whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]
        broken = "is not a whole Parquet file"
        for content, said in ((b"", "is empty"), (whole[:200], broken), (flipped, broken)):
            first.write_bytes(content)
            for again in (lambda: run.evaluate(settings.load(**done)), lambda: list(run.read(done["eval_dir"]))):
                with pytest.raises(EvaluationError, match=f"rows_000000.parquet {said}.*remove it"):
                    again()
        pd.read_parquet(second).to_parquet(first)  # without the hashes
        with pytest.raises(EvaluationError, match="of another model: hash none"):
            list(run.read(done["eval_dir"]))
        first.unlink()
        run.evaluate(settings.load(**done))
        assert len(contents(done["eval_dir"])) == 24

    def test_other_prompts_are_refused_and_another_dgpo_is_accepted_deliberately(self, done):
        before = EvaluationFolder(done["eval_dir"])
        made_of = before.identity.made_of

        def go_on(**changes):
            with EvaluationFolder.create(before.config, made_of | changes, []):
                pytest.fail(f"it went on with {changes}")

        with pytest.raises(
            EvaluationError, match=r"prompts: math500 changed since .*\); overwrite=True starts afresh$"
        ):
            go_on(prompts={"math500": 64 * "0"})
        with pytest.raises(EvaluationError, match=r"code: dgpo changed since .*accept_changes=\[code\] accepts"):
            go_on(code={"dgpo": "0.0.1"})
        config = before.config.model_copy(update={"accept_changes": ["code"]})
        with EvaluationFolder.create(config, made_of | {"code": {"dgpo": "0.0.1"}}, []) as folder:
            (entry,) = folder.identity.accepted
        assert (entry["what"], entry["to"], folder.config.accept_changes) == ("code", "0.0.1", [])
        with pytest.raises(ConfigError, match="accept_changes"):
            settings.load(**done, accept_changes=["model"])

    @pytest.mark.parametrize(
        ("name", "value"), [("verdict", None), ("verdict", "corect"), ("text", 7), ("length", "x"), ("finished", None)]
    )
    def test_a_page_with_another_kind_of_value_is_not_read(self, done, name, value):
        path = next(Path(done["eval_dir"]).glob("completions/math500/*.parquet"))
        written, table = path.read_bytes(), parquet.read_table(path)
        spoilt = table.set_column(table.column_names.index(name), name, [[value] * len(table)])
        parquet.write_table(spoilt.replace_schema_metadata(table.schema.metadata), path)
        try:
            with pytest.raises(EvaluationError, match=f"{name} must be .*, not {value!r}; remove it"):
                run.rescore(done["eval_dir"])
        finally:
            path.write_bytes(written)

    def test_a_page_that_was_moved_or_copied_is_not_read(self, done, tmp_path):
        first, second, _ = sorted(Path(done["eval_dir"]).glob("completions/math500/*.parquet"))
        pages = {path: path.read_bytes() for path in (first, second)}
        elsewhere = run.evaluate(settings.load(**{**done, "eval_dir": str(tmp_path / "elsewhere")}))
        foreign = (elsewhere / first.relative_to(done["eval_dir"])).read_bytes()  # equal but for whose it is
        places = r"rows_000000\.parquet holds the completions of another file: its row 0 has index, sample, seed = \(5,"
        for content, said in ((pages[second], places), (foreign, r"rows_000000\.parquet .* of another evaluation")):
            first.write_bytes(content)
            for again in (lambda: run.evaluate(settings.load(**done)), lambda: list(run.read(done["eval_dir"]))):
                with pytest.raises(EvaluationError, match=f"{said}.*remove it and evaluate again"):
                    again()

    def test_a_folder_that_another_process_has_taken_over_is_not_written_to(self, done):
        path = Path(done["eval_dir"])
        before = EvaluationFolder(path)
        with EvaluationFolder.create(before.config, before.identity.made_of, []) as folder:
            chunk, places = folder.chunks("math500")[0]
            columns = folder.read("math500", chunk, places)
            path.rename(path.with_name("moved"))
            path.mkdir()
            for write in (
                lambda: folder.write("math500", chunk, columns),
                lambda: folder.write_results([], pd.DataFrame()),
            ):
                with pytest.raises(FolderLost, match=r"eval_dir='.*/eval' was moved, removed or replaced"):
                    write()
            assert not list(path.iterdir())

    def test_spoilt_folders(self, done):
        folder = Path(done["eval_dir"])
        manifest, whole = folder / "manifest.json", (folder / "manifest.json").read_text()
        fields = json.loads(whole)
        for content, said in (
            (whole[:20], "Invalid JSON"),
            ("[]", "object"),
            ("5", "object"),
            (json.dumps({k: v for k, v in fields.items() if k != "n"}), "n: Field required"),
            (json.dumps({k: v for k, v in fields.items() if k != "identity"}), "identity: Field required"),
            *((json.dumps(fields | {"n": n}), r"n(\.0)?: ") for n in ([], [0], [4, 2], "2", None)),
            *((json.dumps(fields | {"benchmarks": b}), "benchmarks") for b in ({}, [], {"math500": "12"})),
            (json.dumps(fields | {"benchmarks": {"other": 12}}), r"identity\.made_of\.data has no hash of other"),
        ):
            manifest.write_text(content)
            with pytest.raises(
                EvaluationError, match=rf"manifest\.json has another format .*{said}.*overwrite=True starts afresh"
            ):
                list(run.read(folder))
        manifest.write_text(whole)
        (folder / "problems.parquet").unlink()
        with pytest.raises(EvaluationError, match=r"problems\.parquet is not the file"):
            list(run.read(folder))

    def test_folders_of_something_else_are_left_alone(self, given, tmp_path):
        (tmp_path / "eval").mkdir()
        (tmp_path / "eval" / "thesis.tex").write_text("x")
        with pytest.raises(ConfigError, match="not empty and not an evaluation; nothing was touched"):
            run.evaluate(settings.load(**given))
        with pytest.raises(EvaluationError, match="is not an evaluation"):
            run.rescore(tmp_path / "eval")

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["n=4", "k=[8]"], "k=[8]: pass@k and maj@k need k ≤ n, and 8 > n=4"),
            (["nn=4"], "unknown setting nn=4 (did you mean 'n'?)"),
            (["top_p=0"], "top_p=0"),
            (["model=tiny", "benchmarks=[aime24]"], "benchmark 'aime24' needs model=FOLDER"),
            (
                ["benchmarks=[aime24]"],
                "unknown benchmark 'aime24'; without data_dir=FOLDER there are: chain, countdown, words",
            ),
            (["rollout=vlm"], "rollout='vlm': input should be 'auto', 'transformers' or 'vllm'"),
            (["generated_max_new_tokens=9"], "generated_max_new_tokens=9 must be at least 29"),
            (["n=2", "tiny"], "'tiny' is not of the form key=value"),
            (["n=4", "--rescore", "x"], "take no settings"),
            (["--rescore", "nowhere"], "nowhere is not an evaluation"),
        ],
    )
    def test_mistakes(self, words, said, capsys, tmp_path, checkpoint):
        options = [] if "--rescore" in words else [f"eval_dir={tmp_path}/new"]
        options += [] if {"--rescore", "model=tiny"} & {*words} else [f"model={checkpoint}"]
        assert cli.main(["eval", *options, *words]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "new").exists()

    def test_the_folder_of_a_run_is_no_policy(self, given, model, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "policy").symlink_to(model)
        with pytest.raises(ConfigError, match=r"is the folder of a run: its policy is model=.*/run/policy$"):
            run.evaluate(settings.load(**{**given, "model": str(tmp_path / "run")}))

    def test_unknown_benchmark_lists_those_found(self, given, data_dir):
        (data_dir / "aime2024.jsonl").write_text("{}\n")
        with pytest.raises(ConfigError, match=r"there are: chain, countdown, words, aime2024 \(aime24\), math500$"):
            run.evaluate(settings.load(**{**given, "benchmarks": ["aime26"]}))
        assert benchmarks.find("aime24", str(data_dir)).name == "aime2024.jsonl"

    def test_other_fields_are_named(self, given):
        with pytest.raises(DataError, match="line 1: no field 'question'; the row has 'id', 'problem', 'answer'"):
            run.evaluate(settings.load(**given, problem_field="question"))
        assert not Path(given["eval_dir"]).exists()
