"""A run that is sent SIGTERM at a step of the test's choice."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from aurep.training.progress import Progress
from aurep.training.signals import Stopped


@contextmanager
def stopped_at(*moments: tuple[str, int, int]) -> Iterator[None]:
    """The run inside the block is sent the signal after each of `moments`, (phase, epoch, step), and must end by it."""
    step = Progress.step

    def kill(self: Progress, phase: str, epoch: int, done: int, length: int) -> None:
        step(self, phase, epoch, done, length)
        if (phase, epoch, done) in moments:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "step", kill)
        with pytest.raises(Stopped):
            yield
