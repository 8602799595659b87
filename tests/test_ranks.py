"""Ranks: a world of one is the identity; two ranks, started by torchrun, agree on everything that they should."""

import pytest
import torch

from dgpo import ranks


class TestAWorldOfOne:
    def test_everything_is_the_identity(self):
        x = torch.tensor([1.0, 2.0])
        assert (ranks.rank(), ranks.size()) == (0, 1)
        assert ranks.gather({"a": x}) == [{"a": x}]
        assert all(reduce(x) is x for reduce in (ranks.total, ranks.smallest, ranks.largest))
        assert ranks.first(max, 1, 2) == 2
        assert ranks.every(max, 1, 2) == [2]
        assert list(range(7))[ranks.share(7)] == list(range(7))
        ranks.barrier("here")

    def test_places_are_named_from_the_outside_in_and_left_on_an_error(self):
        seen = []
        with pytest.raises(ZeroDivisionError), ranks.place("step 1"), ranks.place("update"):
            _fail_after(seen)
        assert seen == ["step 1, update"]
        assert ranks.here() == "no named place"


def test_a_world_of_another_size_than_the_launcher_started_is_refused(monkeypatch):
    """As when another library has made a world of one before: each rank would train alone."""
    ranks.join("cpu", 60)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ranks.RanksError, match="has 1 ranks, the launcher started 2"):
        ranks.join("cpu", 60)


def _fail_after(seen):
    seen.append(ranks.here())
    raise ZeroDivisionError
