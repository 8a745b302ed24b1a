"""What a run shows while it works: on a terminal a bar over the whole run with the time left, in a log file a line an
epoch, and at least one a minute within.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from aurep.training.forecast import spoken
from aurep.training.metrics import EpochRow

_QUIET_SECONDS = 60.0  # the longest that a log file is silent
_LEAST_SHARE = 0.01  # of the run, before which its pace says nothing


class Progress:
    """Prints to `console`; None is silent.

    Args:
        verbose: after every epoch also each site's kept elements and largest input.
        clock: seconds, for tests.
    """

    def __init__(
        self, console: Console | None, *, verbose: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console, self.verbose, self.clock = console, verbose, clock
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._weights: dict[str, float] = {}  # seconds of a step of each phase, as forecast
        self._total = 0.0
        self._done = 0.0
        self._begun = self._spoke = clock()

    def say(self, text: str) -> None:
        self._spoke = self.clock()
        if self.console is not None:
            self.console.print(text, highlight=False, soft_wrap=True)

    def plan(self, steps: Mapping[str, int], seconds: Mapping[str, float]) -> None:
        """What lies ahead: the steps of each phase that is still to run, and what one of them takes, as forecast."""
        self._weights = dict(seconds)
        self._total = sum(seconds[phase] * count for phase, count in steps.items())
        self._done, self._begun = 0.0, self.clock()

    def step(self, phase: str, epoch: int, step: int, steps: int) -> None:
        """One step was done: number `step` (from 1) of the `steps` of an `epoch` (from 0)."""
        self._done += self._weights.get(phase, 0.0)
        if self.console is None:
            return
        where = f"{phase} epoch {epoch + 1}, step {step:,} of {steps:,}"
        if self.console.is_terminal:
            self._show(where)
        elif self.clock() - self._spoke >= _QUIET_SECONDS:
            self.say(f"{where}{self._left(', ')}")

    def _left(self, before: str) -> str:
        """How much of the run is done and how long the rest may take, once its pace is known."""
        share = self._done / self._total if self._total else 0.0
        if not _LEAST_SHARE <= share < 1:
            return ""
        left = (self.clock() - self._begun) * (1 - share) / share
        return f"{before}{share:.0%} of the run, about {spoken(max(0.0, left))} left"

    def _show(self, where: str) -> None:
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[left]}"))
            self._bar = Bar(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task(where, total=self._total or None, left="")
            self._bar.start()
        done = min(self._done, self._total)
        self._bar.update(self._task, description=where, completed=done, left=self._left(""))

    def epoch(self, row: EpochRow, epochs: int) -> None:
        self.close()
        val = "" if row["val_accuracy"] is None else f"  val {row['val_accuracy']:5.2f} %"
        val += "".join(f"  width × {share} {found:5.2f} %" for share, found in row.get("narrower", {}).items())
        kept = "" if row["relu_count"] is None else f"  ReLUs {row['relu_count']:,}"
        kept += f", {row['recovered']:,} back" if row.get("recovered") else ""
        self.say(
            f"{row['phase']:>8} {row['epoch']:3d}/{epochs}  loss {row['train_loss']:.4f}  train "
            f"{row['train_accuracy']:5.2f} %{val}{kept}  {row['images_per_second']:,.0f} images/s{self._left('  ')}"
        )
        if self.verbose:
            for site, largest in row["inputs"].items():
                self.say(f"         {site}: largest input {largest:.4g}")

    def speed(self, rows: Sequence[EpochRow]) -> None:
        """Training images per second of each phase, validation and checkpoints aside."""
        for phase in dict.fromkeys(row["phase"] for row in rows):
            own = [row for row in rows if row["phase"] == phase]
            seconds = sum(row["seconds"] for row in own)
            images = sum(row["seconds"] * row["images_per_second"] for row in own)
            self.say(f"{phase:>8}: {len(own)} epochs, {seconds:,.0f} s, {images / seconds:,.0f} images/s")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
