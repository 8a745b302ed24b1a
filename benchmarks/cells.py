"""A result file that is filled cell by cell, so that a long comparison can be made a part at a time."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from provenance import provenance

Row = dict[str, Any]


def fill(file: Path, cells: Iterable[Row], run: Callable[[Row], Row], page: Callable[[Sequence[Row]], str]) -> None:
    """Add to the rows of the JSON `file` those of `cells` that it lacks, and write `page` beside it after each.

    A row is its cell, what `run` found and where: a cell is there if some row has all of its values.
    """
    rows: list[Row] = json.loads(file.read_text()) if file.exists() else []
    for cell in cells:
        if any(cell.items() <= row.items() for row in rows):
            continue
        rows.append(cell | run(cell) | provenance())
        file.write_text(json.dumps(rows, indent=1) + "\n")
        file.with_suffix(".md").write_text(page(rows))


def of_length(rows: Sequence[Row], arguments: argparse.Namespace) -> list[Row]:
    """Those of the epochs and images that `arguments` name."""
    return [row for row in rows if (row["epochs"], row["images"]) == (arguments.epochs, arguments.images)]


def teacher_of(rows: Sequence[Row]) -> str:
    """Its test accuracy; of a run that collapsed none is known."""
    return next((f"{row['teacher']:.2f}" for row in rows if row["teacher"] is not None), "?")


def where_of(rows: Sequence[Row]) -> str:
    """On what hardware, with which versions and when they were made."""
    return "; ".join(sorted({f"{row['hardware']}, {row['versions']}, {row['date']}" for row in rows}))
