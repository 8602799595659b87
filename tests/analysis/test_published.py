"""Published scores beside ours."""

import numpy as np
import pytest

from analysis import published
from dgpo.evaluation.scores import Samples

SIX = ("aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench")


def samples(name, right):
    verdicts = np.full((2, 32), "wrong", dtype=object)
    verdicts[:, :right] = "correct"
    nothing = np.full((2, 32), None, dtype=object)
    return Samples(name, "", ("a", "b"), verdicts, nothing, np.ones((2, 32)), np.ones((2, 32), dtype=bool))


def test_the_published_means_are_those_of_the_published_benchmarks():
    """Which two printed digits allow: half a tenth for each of the six, and for the mean."""
    for model in ("1.5B", "7B"):
        for _, rows in published.scores(model).groupby(["source", "method"]):
            for column in ("avg_at_32", "pass_at_32"):
                by_name = rows.set_index("benchmark")[column]
                assert by_name.pop("average") == pytest.approx(by_name.mean(), abs=0.11)


def test_ours_stand_under_the_published_names_and_their_mean_only_where_all_are_there():
    table = published.beside({"mine": [samples(name, 8) for name in SIX]}, "R1-Distill-Qwen-1.5B")
    mine = table[table["source"] == "ours"].set_index("score")
    assert mine.loc["avg@32", "average"].startswith("25.0 [")
    assert mine.loc["avg@32", "olympiadbench_maths_en"].startswith("25.0 [")
    dgpo = table[(table["policy"] == "DGPO") & (table["score"] == "Avg@32")].squeeze()
    assert (dgpo["aime2024"], dgpo["average"]) == ("43.3", "52.7")
    some = published.beside({"mine": [samples("aime24", 8)]}, "7B")
    assert some.loc[0, ["math500", "average"]].tolist() == ["–", "–"]
