"""The benchmarks that need a GPU or another environment run here at a small scale, so that they are ready."""

import sys
import time
import weakref
from types import SimpleNamespace

import pytest
import torch
import vllm_stub

from benchmarks import gpu, gpu_memory, gpu_samplers, gpu_table, gpu_wheels


def test_every_part_of_the_gpu_table_at_a_small_scale(capsys, tmp_path):
    out = tmp_path / "table.md"
    gpu.main(["--tiny", "--out", str(out)])
    printed = capsys.readouterr().out
    assert printed == out.read_text()
    assert "failed" not in printed
    assert "Error" not in printed
    for name in gpu.PARTS:
        assert f"| {name} | done: CPU, {time.strftime('%Y-%m-%d')} | | |" in printed
    for part in (
        "96 tokens",
        "192 tokens",
        "recomputed",
        "old_logp",
        "seconds to load",
        "chunks of",
        "decoding, 8",
        "sampler's process",
        "wakes of 5",
        "float32 logits",
        "optimizer away",
    ):
        assert part in printed
    for line in printed.splitlines():
        if line.startswith("| update,"):
            measured, planned = line.split("|")[3:5]
            assert float(measured) > 0
            assert float(planned) > 0


def test_a_part_that_the_file_holds_is_not_measured_again(capsys, tmp_path):
    out = tmp_path / "table.md"
    today = time.strftime("%Y-%m-%d")
    held = [name for name in gpu.PARTS if name not in ("adam", "numbers")]
    lines = [f"| {name} | done: CPU, {today} | | |\n" for name in held]
    out.write_text("".join([*lines, f"| adam | done: NVIDIA H100, {today} | | |\n"]))
    gpu.main(["--tiny", "--out", str(out)])
    printed = capsys.readouterr().out
    assert printed.count("done: ") == 2
    assert "AdamW, fused" in printed
    assert "log π twice" in printed


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


def test_a_part_that_takes_too_long_says_where_it_is_and_is_killed(capfd, monkeypatch):
    gpu_table._watched(0.2, time.sleep, 0.5)
    assert "_watched" in capfd.readouterr().err
    monkeypatch.setattr(gpu_table, "_PATIENCE", 5)
    gpu_table.apart(time.sleep, 600)
    assert "| sleep | failed | not done after 5 seconds |" in capfd.readouterr().out


def test_vllms_engine_on_its_stand_in(capsys, monkeypatch):
    vllm_stub.install(monkeypatch)
    monkeypatch.setattr(gpu_table, "synchronize", lambda: None)
    gpu_samplers.engine(True)
    printed = capsys.readouterr().out
    assert "vLLM, weights loaded" in printed
    assert vllm_stub.LLM.last.calls == [
        "reset_prefix_cache", "generate", "sleep 2", "wake weights", "reload_weights", "wake kv_cache",
        "reset_prefix_cache", "generate", "shutdown",
    ]  # fmt: skip


def test_without_vllm_a_row_says_so(capsys):
    gpu_samplers.engine(True)
    assert "not installed here" in capsys.readouterr().out


def test_the_sleeping_pool_maps_what_it_unmapped(monkeypatch):
    """On a stand-in for the extension, which calls back for every allocation and does not own what it calls."""
    calls, device = [], {}
    extension = SimpleNamespace(
        init_module=lambda *callbacks: device.update(zip(("made", "freed"), map(weakref.ref, callbacks), strict=True)),
        python_unmap_and_release=lambda *handle: calls.append(("unmap", *handle)),
        python_create_and_map=lambda *handle: calls.append(("map", *handle)),
    )
    monkeypatch.setattr(torch.cuda.memory, "CUDAPluggableAllocator", lambda *_: SimpleNamespace(_allocator=None))
    monkeypatch.setattr(torch.cuda.memory, "MemPool", lambda _: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    pool = gpu_memory.SleepingPool(extension, gpu_table.WHEELS / gpu_memory.NAME)
    first, second = (0, 512, 1000, 1), (0, 256, 2000, 2)
    for handle in (first, second):
        device["made"]()(handle)
    pool.sleep()
    pool.wake()
    assert device["freed"]()(1000) == first
    pool.sleep()
    assert calls == [("unmap", *first), ("unmap", *second), ("map", *first), ("map", *second), ("unmap", *second)]


def test_wheels_are_put_into_folders_that_can_be_carried(tmp_path):
    for name, size in {"a": 50, "b": 30, "c": 30, "d": 10, "e": 40}.items():
        (tmp_path / f"{name}.whl").write_bytes(bytes(size))
    groups = [[path.stem for path in group] for group in gpu_wheels.parts(tmp_path.glob("*.whl"), 60)]
    assert groups == [["a", "d"], ["e"], ["b", "c"]]
    (tmp_path / "large.whl").write_bytes(bytes(61))
    with pytest.raises(SystemExit, match=r"large\.whl"):
        gpu_wheels.parts(tmp_path.glob("*.whl"), 60)
