"""The benchmarks that need a GPU or another environment run here at a small scale, so that they are ready."""

import sys

import pytest

from benchmarks import gpu


def test_every_part_of_the_gpu_table_at_a_small_scale(capsys):
    gpu.main(["--tiny"])
    out = capsys.readouterr().out
    assert "updates by DeepSpeed" in out
    for part in ("96 tokens", "192 tokens", "recomputed", "old_logp", "seconds to load", "chunked", "decoding, 8"):
        assert part in out
    for line in out.splitlines():
        if line.startswith("| update"):
            measured, planned = line.split("|")[3:5]
            assert float(measured) > 0
            assert float(planned) > 0


def test_without_deepspeed_the_table_says_so(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "HAS_DEEPSPEED", False)
    gpu.main(["--tiny"])
    out = capsys.readouterr().out
    assert "updates by torch's AdamW, no DeepSpeed" in out
    assert "weights alone (no DeepSpeed)" in out


def test_without_a_gpu_it_names_the_way_out(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--tiny" in capsys.readouterr().err


def test_a_part_in_a_process_of_its_own_prints_its_rows_and_may_fail(capfd):
    gpu.apart(print, "| a row |")
    gpu.apart(sys.exit, 3)
    out = capfd.readouterr().out
    assert "| a row |" in out
    assert "| exit | failed | exit code 3 |" in out
