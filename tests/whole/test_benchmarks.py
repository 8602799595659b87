"""The benchmarks that need a GPU or another environment run here at a small scale, so that they are ready."""

import sys

import pytest

from benchmarks import gpu, gpu_table


def test_every_part_of_the_gpu_table_at_a_small_scale(capsys, tmp_path):
    out = tmp_path / "table.md"
    gpu.main(["--tiny", "--out", str(out)])
    printed = capsys.readouterr().out
    assert printed == out.read_text()
    assert "failed" not in printed
    assert "Error" not in printed
    for name in gpu.PARTS:
        assert f"| {name} | done | | |" in printed
    for part in ("96 tokens", "192 tokens", "recomputed", "old_logp", "seconds to load", "chunks of", "decoding, 8"):
        assert part in printed
    for line in printed.splitlines():
        if line.startswith("| update,"):
            measured, planned = line.split("|")[3:5]
            assert float(measured) > 0
            assert float(planned) > 0


def test_a_part_that_the_file_holds_is_not_measured_again(capsys, tmp_path):
    out = tmp_path / "table.md"
    out.write_text("".join(f"| {name} | done | | |\n" for name in gpu.PARTS))
    gpu.main(["--tiny", "--out", str(out)])
    assert "done" not in capsys.readouterr().out


def test_an_unknown_part_is_refused_with_the_names_of_all(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--tiny", "storey"])
    assert "unknown part storey; there are runs" in capsys.readouterr().err


def test_without_a_gpu_it_names_the_way_out(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--tiny" in capsys.readouterr().err


def test_a_part_in_a_process_of_its_own_prints_its_rows_and_may_fail(capfd):
    gpu_table.apart(print, "| a row |")
    gpu_table.apart(sys.exit, 3)
    out = capfd.readouterr().out
    assert "| a row |" in out
    assert "| exit | failed | exit code 3 |" in out
