"""`metrics.csv`: a row per epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

from aurep.files import write_text


class EpochRow(TypedDict):
    """What an epoch ended with; None where a value does not apply. Plain data, for a checkpoint holds it."""

    phase: str
    epoch: int  # from 1
    lr: float
    train_loss: float
    train_accuracy: float  # percent, as all accuracies
    val_accuracy: float | None
    relu_count: int | None
    seconds: float
    images_per_second: float
    kept: dict[str, int]  # ReLUs at each site; column relu_sites: at how many there are any
    inputs: dict[str, float]  # the largest |x| at each site in validation; columns largest_input and its site
    recovered: NotRequired[int]  # in a search: elements that were replaced and came back in this epoch
    kept_before_projection: NotRequired[int]  # in a search's last row: elements that it kept by itself
    narrower: NotRequired[dict[str, float]]  # width multiplier -> validation accuracy; columns val_accuracy_0.5


def write_metrics(path: Path, rows: Sequence[EpochRow]) -> None:
    """Empty cells where a value does not apply."""
    lines = [_flat(row) for row in rows]
    text = io.StringIO()
    columns = list(dict.fromkeys(key for line in lines for key in line)) or ["phase", "epoch"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, text.getvalue())


def _flat(row: EpochRow) -> dict[str, object]:
    line: dict[str, object] = {key: value for key, value in row.items() if key not in ("narrower", "inputs", "kept")}
    line["relu_sites"] = sum(count > 0 for count in row["kept"].values()) if row["kept"] else None
    widest = max(row["inputs"], key=row["inputs"].__getitem__, default=None)
    line |= {"largest_input": row["inputs"][widest] if widest else None, "largest_input_site": widest}
    return line | {f"val_accuracy_{share}": accuracy for share, accuracy in row.get("narrower", {}).items()}
