"""Freed memory stays with the process: tensors made anew do not fault their pages in again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_MEASURED = """
import resource
import torch
from aurep.training.heap import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(2**22) for _ in range(8)]  # 16 MiB each, as a step has several at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
for _ in range(8):  # where they come to lie settles within three or four
    faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_that_was_freed_is_not_faulted_in_again() -> None:
    printed = subprocess.run([sys.executable, "-c", _MEASURED], capture_output=True, text=True, check=True).stdout
    # In pages of 4 KiB the tensors have 32,768, and glibc by itself gives back what is above 64 MiB; a few faults are
    # the interpreter's own.
    assert int(printed) < 100
