"""What a run shows while it works: a bar on a terminal, a line per epoch everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.status import Status

from aurep.training.metrics import EpochRow

_BAR = 20


class Progress:
    """Prints to `console`; None is silent."""

    def __init__(self, console: Console | None) -> None:
        self.console = console
        self._status: Status | None = None

    def say(self, text: str) -> None:
        if self.console is not None:
            self.console.print(text, highlight=False, soft_wrap=True)

    def step(self, phase: str, epoch: int, step: int, steps: int) -> None:
        if self.console is None or not self.console.is_terminal:
            return
        filled = _BAR * step // steps
        bar = "━" * filled + "[dim]" + "─" * (_BAR - filled) + "[/dim]"
        text = f"{phase} epoch {epoch + 1}  {bar} {step}/{steps}"
        if self._status is None:
            self._status = self.console.status(text)
            self._status.start()
        self._status.update(text)

    def epoch(self, row: EpochRow, epochs: int) -> None:
        self.close()
        val = "" if row["val_accuracy"] is None else f"  val {row['val_accuracy']:5.2f} %"
        val += "".join(f"  width × {share} {found:5.2f} %" for share, found in row.get("narrower", {}).items())
        kept = "" if row["relu_count"] is None else f"  ReLUs {row['relu_count']:,}"
        self.say(
            f"{row['phase']:>8} {row['epoch']:3d}/{epochs}  loss {row['train_loss']:.4f}  "
            f"train {row['train_accuracy']:5.2f} %{val}{kept}  {row['images_per_second']:,.0f} images/s"
        )

    def speed(self, rows: Sequence[EpochRow]) -> None:
        """Training images per second of each phase, validation and checkpoints aside."""
        for phase in dict.fromkeys(row["phase"] for row in rows):
            own = [row for row in rows if row["phase"] == phase]
            seconds = sum(row["seconds"] for row in own)
            images = sum(row["seconds"] * row["images_per_second"] for row in own)
            self.say(f"{phase:>8}: {len(own)} epochs, {seconds:,.0f} s, {images / seconds:,.0f} images/s")

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
