"""An evaluation on two ranks writes the completions, and the scores, of one."""

import sys

import pandas as pd
import pytest
from launch import errors, run

from dgpo.evaluation import run as evaluation
from dgpo.evaluation import settings
from dgpo.evaluation.folder import EvaluationFolder


@pytest.fixture(scope="module")
def given(checkpoint):
    return {
        "model": str(checkpoint), "benchmarks": ["chain"], "generated_problems": 10, "n": 6, "chunk_rows": 16,
        "difficulty": 1, "generated_max_new_tokens": 12, "threads": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def alone(given, tmp_path_factory):
    return evaluation.evaluate(settings.load(**given, eval_dir=str(tmp_path_factory.mktemp("alone") / "eval")))


@pytest.fixture(scope="module")
def together(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("together") / "eval"
    words = [f"{k}={str(v).replace(' ', '')}" for k, v in {**given, "eval_dir": folder}.items()]
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = run([sys.executable, "-m", *launcher, "-m", "dgpo", "eval", *words])
    assert result.returncode == 0, errors(result)
    assert result.stdout.count(f"{folder}\n") == 1  # rank 0 alone prints the scores
    return folder


def completions(folder) -> pd.DataFrame:
    return pd.concat(EvaluationFolder(folder).completions("chain")).drop(columns=["finished"])


def test_completions_and_scores_are_those_of_one_rank(alone, together):
    assert len(list((together / "completions" / "chain").iterdir())) == 4
    pd.testing.assert_frame_equal(completions(alone), completions(together))
    assert (alone / "results.json").read_text() == (together / "results.json").read_text()


def test_one_rank_goes_on_with_what_two_have_left(given, alone, together):
    lost = sorted((together / "completions" / "chain").iterdir())[1]
    lost.unlink()
    evaluation.evaluate(settings.load(**given, eval_dir=str(together)))
    pd.testing.assert_frame_equal(completions(alone), completions(together))
