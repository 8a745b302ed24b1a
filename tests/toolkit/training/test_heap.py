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

def faults(elements):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(elements)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
for elements in (2**20, 2**22):  # 4 MiB and 16 MiB
    for _ in range(8):  # where they come to lie settles within three or four
        faults(elements)
    print(faults(elements))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_that_was_freed_is_not_faulted_in_again() -> None:
    printed = subprocess.run([sys.executable, "-c", _MEASURED], capture_output=True, text=True, check=True).stdout
    small, large = map(int, printed.split())
    # In pages of 4 KiB the tensors have 1,024 and 4,096; a few faults are the interpreter's own.
    assert small < 100
    assert large < 100
