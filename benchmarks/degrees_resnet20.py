"""CIFAR-10 on ResNet-20: what degree 2, 1 and 0 are worth at 20 %, 5 %, 2 % and none of its ReLUs.

    python benchmarks/degrees_resnet20.py --data-dir DIR [--work runs/degrees] [--epochs 1+2] [--images 10000]

Which elements stay is saliency's choice at every degree, teacher and images are those of methods_resnet20.py. Every
cell is tried at both rates, and its better run on the validation images stands in the table. No ReLU at degree 1 or 0
is a linear network, and left out. Cells of the same images and epochs that are in the result file are not made again.

Writes benchmarks/results/degrees_resnet20.{json,md}.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cells import Row, fill, of_length, teacher_of, where_of
from methods_resnet20 import EARLIER, SLOWER, configuration, outcome
from provenance import RESULTS, markdown_table

TOTAL, SHARES, DEGREES = 188_416, (0.2, 0.05, 0.02, 0.0), (2, 1, 0)
RATES: dict[str, list[str]] = {"3e-3": [], "1e-3": SLOWER}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/degrees"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--epochs", default="1+2", metavar="SEARCH+FINETUNE")
    parser.add_argument("--images", type=int, default=10_000)
    arguments = parser.parse_args()
    file = arguments.results / "degrees_resnet20.json"
    fill(file, cells(arguments), lambda cell: run(arguments, cell), lambda rows: page(arguments, rows))


def cells(arguments: argparse.Namespace) -> list[Row]:
    which = {"epochs": arguments.epochs, "images": arguments.images}
    return [
        {**which, "budget": int(share * TOTAL), "degree": degree, "rate": rate}
        for share in SHARES
        for degree in DEGREES
        if share or degree == 2
        for rate in RATES
    ]


def run(arguments: argparse.Namespace, cell: Row) -> Row:
    overrides = [f"search.budget={cell['budget']}", f"search.degree={cell['degree']}", "search.method=saliency"]
    overrides += RATES[cell["rate"]]
    folder = arguments.work / "-".join(str(value) for value in cell.values())
    return outcome(configuration(arguments, cell["epochs"], overrides), folder, cell["budget"])


def page(arguments: argparse.Namespace, rows: Sequence[Row]) -> str:
    mine = of_length(rows, arguments)
    found: dict[tuple[int, int], list[Row]] = {}
    for row in mine:
        found.setdefault((row["budget"], row["degree"]), []).append(row)
    search, finetune = arguments.epochs.split("+")
    text = "# CIFAR-10, ResNet-20 (188,416 ReLUs): degrees 2, 1 and 0\n\n"
    text += f"{where_of(mine)}. Saliency, {search} + {finetune} epochs of search and "
    text += f"finetuning on {arguments.images:,} images; teacher {teacher_of(mine)} % test. One seed; every cell at "
    text += "two rates, of which the better on the validation images stands here.\n"
    text += EARLIER + "Command: `python benchmarks/degrees_resnet20.py --data-dir DIR`.\n\n"
    head = ("ReLUs kept", "share", "degree", "val %", "test %", "rate", "val % at the other rate")
    return text + markdown_table(head, [line(tried) for _, tried in sorted(found.items(), reverse=True)])


def line(tried: list[Row]) -> tuple[Any, ...]:
    best, *others = sorted(tried, key=lambda row: float(row["val"]), reverse=True)
    return (
        f"{best['budget']:,}",
        f"{best['budget'] / TOTAL:.0%}",
        best["degree"],
        f"{best['val']:.2f}",
        f"{best['test']:.2f}",
        best["rate"],
        ", ".join(f"{row['val']:.2f}" for row in others) or "-",
    )


if __name__ == "__main__":
    main()
