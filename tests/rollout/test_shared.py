"""Tensors cross to another process unchanged, whatever their size, type and layout."""

import subprocess
import sys

import torch

from dgpo.rollout.shared import SharedMemory

TENSORS = {
    "float32": torch.randn(3, 5),
    "bfloat16, larger": torch.randn(200, 77).bfloat16(),
    "not contiguous": torch.arange(12.0).view(3, 4).T,
    "a number": torch.tensor(2.5),
    "empty": torch.empty(0, 4),
    "smaller again": torch.tensor([1, -2]),
}


def test_each_tensor_arrives_and_the_memory_grows():
    ours = SharedMemory()
    theirs = SharedMemory(ours.descriptor)  # as the other process has it
    for name, tensor in TENSORS.items():
        described = ours.put(tensor)
        got = theirs.get(**described)
        assert got.dtype == tensor.dtype, name
        assert torch.equal(got, tensor), name


def test_another_process_reads_what_was_put_in_last():
    ours = SharedMemory()
    ours.put(torch.full((1000,), 7.0))
    ours.put(torch.tensor([1.5, 2.5]))
    code = (
        "import sys; from dgpo.rollout.shared import SharedMemory\n"
        "print(SharedMemory(int(sys.argv[1])).get('float32', [3]).tolist())"
    )
    child = [sys.executable, "-c", code, str(ours.descriptor)]
    out = subprocess.run(child, pass_fds=[ours.descriptor], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[1.5, 2.5, 7.0]"


def test_it_also_works_where_no_file_in_memory_can_be_had(monkeypatch):
    monkeypatch.delattr("os.memfd_create", raising=False)
    ours = SharedMemory()
    assert torch.equal(SharedMemory(ours.descriptor).get(**ours.put(torch.arange(5))), torch.arange(5))
