"""How much memory a data set may take."""

from __future__ import annotations

import os
from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")  # a container's limits, where it has any


def available_memory() -> int:
    """Bytes that this process can still take: what the machine has left, and within what its container allows."""
    group = _left_in_group()
    return _left_on_machine() if group is None else min(_left_on_machine(), group)


def _left_on_machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # no Linux: half of all memory, since nothing portable tells what is in use
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    kilobytes = {key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines)}
    return 1024 * kilobytes["MemAvailable"]


def _left_in_group() -> int | None:
    """By control groups, version 2. Cached file contents count as used there, but give way."""
    try:
        limit = (_GROUP / "memory.max").read_text().strip()
        used = int((_GROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_GROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used + int(stat.get("inactive_file", 0)))
