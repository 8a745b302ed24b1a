"""How much a handed-over file may cost: memory, CPU time, wall time; and how a process binds itself to it.

Memory is what a process may write to (RLIMIT_DATA), not the address space it reserves: CUDA and thread pools reserve
hundreds of gigabytes that they never touch.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from dataclasses import asdict, dataclass, fields
from typing import Self

from aurep.errors import AurepError

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SPARE_MEMORY = 2**28  # bytes beyond the limit, to say in that it was reached
_SPARE_SECONDS = 5  # of CPU time between the signal that can be caught and the one that cannot
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # of unshare(2)


@dataclass(frozen=True)
class Limits:
    """Defaults for networks of 100 million parameters.

    Attributes:
        memory: bytes that the process may write to, and that a file of its may have.
        cpu: seconds of CPU time, of all threads together; None: `wall` on every CPU.
        wall: seconds.
    """

    memory: int = 8 * 2**30
    cpu: int | None = None
    wall: int = 1800

    @classmethod
    def parse(cls, text: str) -> Self:
        """`memory=16GiB,cpu=3600,wall=3600`, any of the three. Raises AurepError."""
        found: dict[str, int] = {}
        for part in filter(None, text.split(",")):
            name, _, value = (word.strip() for word in part.partition("="))
            size = re.fullmatch(
                r"(\d{1,15})\s*([kmgt]?)(i?b)?" if name == "memory" else r"(\d{1,9})()s?", value.lower()
            )
            if name not in (field.name for field in fields(cls)) or name in found or not size or not int(size[1]):
                raise AurepError(
                    f"the limit {part.strip()!r} is not understood; write e.g. memory=16GiB,cpu=3600,wall=3600 "
                    "(bytes, and seconds)."
                )
            found[name] = int(size[1]) * _UNITS[size[2]]
        return cls(**found)

    def to_dict(self) -> dict[str, int | None]:
        return asdict(self)

    @property
    def cpu_seconds(self) -> int:
        return self.cpu or self.wall * (os.cpu_count() or 1)


def confine(limits: Limits) -> None:
    """Bind this process, and all it starts, to `limits`: no core dumps either, and no network where Linux grants that.

    What the system does not know or grant is left out: elsewhere than on Linux the memory may be unlimited.
    """
    import resource

    spare = limits.memory + _SPARE_MEMORY
    wanted = {
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_CPU": (limits.cpu_seconds, limits.cpu_seconds + _SPARE_SECONDS),
        "RLIMIT_DATA": (limits.memory, spare),
        "RLIMIT_FSIZE": (limits.memory, limits.memory),
    }
    for name, (soft, hard) in wanted.items():
        kind = getattr(resource, name)
        most = resource.getrlimit(kind)[1]
        if most != resource.RLIM_INFINITY:  # a limit that was set from outside holds as well
            soft, hard = min(soft, most), min(hard, most)
        try:
            resource.setrlimit(kind, (soft, hard))
        except (OSError, ValueError):
            continue
    if sys.platform == "linux":
        _leave_network()


def relax_memory() -> None:
    """Take the spare memory, after the limit was reached: enough to say so in."""
    if sys.platform == "win32":
        return
    import resource

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def _leave_network() -> None:
    """Into a network of no interfaces: as root at once, else as a user of one's own where unprivileged users may."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NETWORK):
        libc.unshare(_NEW_USER | _NEW_NETWORK)
