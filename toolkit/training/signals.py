"""A signal ends a run after the step in flight, with its checkpoint written.

SIGINT and SIGTERM, and SIGUSR1 and SIGUSR2, by which Slurm is asked to warn a job before its time ends.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")
_HEEDED = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))  # Windows has the first two


class Stopped(Exception):
    """A signal ended the run; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopSignal:
    """Inside the block, the first signal of a kind only sets `received`; a second one acts as usual."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _HEEDED}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = number
        signal.signal(number, self._before.pop(number))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
