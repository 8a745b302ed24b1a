"""Memory that a training step frees is what the next step asks for."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's names for mallopt, which takes ints
_KEPT, _FROM_HEAP = 2**30, 2**25  # bytes: the latter is the most that every glibc takes


def keep_freed_memory() -> None:
    """Let glibc, where that is the C library, keep what this process frees instead of giving it back to the system.

    Else tensors of some MiB are returned and faulted in again step by step. For processes that only train: what was
    once used stays taken until they end.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _FROM_HEAP)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT)
