"""What a sweep file may say, and the runs it means."""

import pytest
from running import LEVELS, sweep_in

from dgpo.config import ConfigError
from dgpo.sweeps import definition


def test_cells_are_the_product_of_the_levels(tmp_path):
    sweep = sweep_in(tmp_path / "s", factors={"method": LEVELS, "lr": ["1e-4", 0.001]})
    assert [cell.name for cell in sweep.cells[:3]] == ["grpo,lr=1e-4", "grpo,lr=0.001", "gppo,lr=1e-4"]
    assert sweep.cells[2].levels == {"method": "gppo", "lr": "lr=1e-4"}
    config = sweep.config(sweep.cells[2], 7)
    assert (config.lr, config.seed, config.method_params["dual_clip"], config.steps) == (1e-4, 7, 3.0, 3)
    assert config.run_dir == str(tmp_path / "s" / "gppo,lr=1e-4" / "seed_7")


def test_overrides_are_fields_of_the_sweep_or_settings(tmp_path):
    sweep_in(tmp_path / "s")
    sweep = definition.load(tmp_path / "s.yaml", seeds=[4], steps=9)
    assert (sweep.seeds, sweep.config(sweep.cells[0], 4).steps) == ([4], 9)


def test_shards_part_the_runs(tmp_path):
    sweep = sweep_in(tmp_path / "s", seeds=[0, 1, 2])
    parts = [run.name for i in (1, 2, 3, 4) for run in sweep.runs((i, 4))]
    assert len(parts) == 6
    assert sorted(parts) == sorted(run.name for run in sweep.runs())
    assert {run.seed for run in sweep.runs()[:2]} == {0}
    assert [run.name for run in sweep.runs(only="gppo")] == ["gppo seed 0", "gppo seed 1", "gppo seed 2"]
    with pytest.raises(ConfigError, match="cell 'gpo' must be one of: grpo, gppo"):
        sweep.runs(only="gpo")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"factors": {"stepz": [1, 2]}}, "cell 'stepz=1': unknown setting stepz=1 (did you mean 'steps'?)"),
        ({"factors": {"m": [1]}, "settings": {"method": "grpo"}}, "cell 'm=1': unknown setting m=1"),
        ({"factors": {"method": {"a": {"method": "grop"}}}}, "cell 'a': method='grop'"),
        ({"factors": {"lr": [0.1, 0.1]}}, "two cells are named 'lr=0.1'"),
        ({"factors": {"lr": {"a": {"lr": 1}, "b": {"lr": 1.0}}}}, "cells 'a' and 'b' have the same settings"),
        ({"factors": {"betas": [[0.9, 0.9]]}}, "'betas=[0.9, 0.9]' cannot name a folder"),
        ({"factors": {"lr": []}}, "factor 'lr' has no levels"),
        ({"factors": {"steps": [1, 2]}}, "steps is set by factor 'steps' and by settings"),
        ({"factors": {"lr": [1], "x": {"y": {"lr": 2}}}}, "lr is set by factor 'x' and by factor 'lr'"),
        ({"factors": {"seed": [1, 2]}}, "seed is set by the sweep itself"),
        ({"factors": {}}, "factors={}"),
        *[
            (
                {"factors": {"method": {name: {"method": "grpo"}}}},
                f"factor 'method': level {name!r} needs another name",
            )
            for name in (
                ".",
                "..",
                ".running",
                ".lock",
                "report.md",
                "REPORT.md",
                "sweep.yaml",
                "policies.json",
                "figures",
            )
        ],
        (
            {"factors": {"x": {"a" * 150: {"lr": 1}}, "y": {"b" * 60: {"epochs": 1}}}},
            "has 211 characters and may have 200",
        ),
        ({"factors": {"x": {"a" * 150: {"lr": 1}}, "y": {"b" * 60: {"epochs": 1}}}}, "150 characters, of factor 'x'"),
        ({"seeds": [1, 1]}, "seeds=[1, 1]: 1 is named twice"),
        ({"seeds": [-1]}, "seeds.0=-1"),
        ({"sedes": [1]}, "sedes=[1]: unknown setting (a sweep has: name, folder"),
        ({"name": "a/b"}, "name='a/b'"),
    ],
)
def test_mistakes_are_named_before_anything_runs(tmp_path, changes, said):
    with pytest.raises(ConfigError) as error:
        sweep_in(tmp_path / "s", **changes)
    assert said in str(error.value)
    assert not (tmp_path / "s").exists()


def test_a_cell_named_twice_in_the_file_is_not_dropped_in_silence(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("name: s\nfolder: f\nfactors:\n  lr:\n    a: {lr: 1}\n    a: {lr: 2}\nseeds: [0]\n")
    with pytest.raises(ConfigError, match="'a' occurs twice in one mapping"):
        definition.load(path)


@pytest.mark.parametrize("shard", ["", "2", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2"])
def test_a_malformed_shard(shard):
    with pytest.raises(ConfigError, match="must be i/n with 1 ≤ i ≤ n"):
        definition.parse_shard(shard)


class TestMoved:
    """`sweep.yaml` in a folder that a sweep has run in is read as that of the folder which holds it."""

    def write(self, folder):
        sweep = sweep_in(folder.with_name("old"))
        folder.mkdir()
        definition.dump(sweep, folder / "sweep.yaml")
        return folder / "sweep.yaml"

    @pytest.mark.parametrize("mark", [".running/1_of_1/.lock", "policies.json", "grpo/seed_0/config.yaml"])
    def test_a_moved_sweep_goes_on_where_it_lies(self, tmp_path, mark):
        path = self.write(tmp_path / "moved")
        (path.parent / mark).parent.mkdir(parents=True, exist_ok=True)
        (path.parent / mark).touch()
        assert definition.load(path).path == tmp_path / "moved"
        assert definition.load(path, folder=str(tmp_path / "third")).path == tmp_path / "third"

    def test_a_file_of_that_name_elsewhere_names_its_folder(self, tmp_path):
        assert definition.load(self.write(tmp_path / "plain")).path == tmp_path / "old"
