"""CIFAR-10 on ResNet-20: at which two sites 4,096 ReLUs are worth most, and what `--max-sites 2` chooses.

    python benchmarks/sites_resnet20.py --data-dir DIR [--work runs/methods] [--seeds 0 1] [--epochs 1+2]

Saliency chooses the elements; teacher and images are those of methods_resnet20.py. Runs of the same images and epochs
that are in the result file are not made again. Writes benchmarks/results/sites_resnet20.{json,md}.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from cells import Row, fill, of_length, teacher_of, where_of
from methods_resnet20 import EARLIER, configuration, outcome, spread
from provenance import RESULTS, markdown_table

BUDGET = 4_096
PLACES: dict[str, list[str]] = {
    "no ReLU": ["search.budget=0"],
    "chosen by `--max-sites 2`": ["search.max_sites=2"],
    **{
        where: [f"search.sites={json.dumps(sites)}"]
        for where, sites in {
            "first two of stage 2": ["layer2.0.relu1", "layer2.0.relu2"],
            "last two of stage 2": ["layer2.2.relu1", "layer2.2.relu2"],
            "first two of stage 3": ["layer3.0.relu1", "layer3.0.relu2"],
            "last two of stage 3": ["layer3.2.relu1", "layer3.2.relu2"],
        }.items()
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/methods"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--epochs", default="1+2", metavar="SEARCH+FINETUNE")
    parser.add_argument("--images", type=int, default=10_000)
    arguments = parser.parse_args()
    which = {"epochs": arguments.epochs, "images": arguments.images}
    cells = [{**which, "where": where, "seed": seed} for seed in arguments.seeds for where in PLACES]
    file = arguments.results / "sites_resnet20.json"
    fill(file, cells, lambda cell: run(arguments, cell), lambda rows: page(arguments, rows))


def run(arguments: argparse.Namespace, cell: Row) -> Row:
    from aurep.results import read_result

    overrides = ["search.method=saliency", f"search.budget={BUDGET}", *PLACES[cell["where"]]]
    overrides += [f"train.seed={cell['seed']}"]
    folder = arguments.work / f"sites-{list(PLACES).index(cell['where'])}-{cell['epochs']}-s{cell['seed']}"
    found = outcome(configuration(arguments, cell["epochs"], overrides), folder, BUDGET)
    kept = [] if "error" in found else [site.name for site in read_result(folder).sites if site.kept]
    return found | {"sites": kept}


def page(arguments: argparse.Namespace, rows: Sequence[Row]) -> str:
    mine = of_length(rows, arguments)
    search, finetune = arguments.epochs.split("+")
    text = f"# CIFAR-10, ResNet-20: {BUDGET:,} of 188,416 ReLUs at two of the 19 sites\n\n"
    text += f"{where_of(mine)}. Saliency, degree 2, {search} + {finetune} epochs of "
    text += f"search and finetuning on {arguments.images:,} images; teacher {teacher_of(mine)} % test. Mean and "
    text += "standard deviation over the seeds.\n" + EARLIER
    text += "Command: `python benchmarks/sites_resnet20.py --data-dir DIR`.\n\n"
    places = [(where, [row for row in mine if row["where"] == where]) for where in PLACES]
    head = ("ReLUs stay at", "sites", "val %", "test %", "seeds")
    return text + markdown_table(head, [line(where, runs) for where, runs in places if runs])


def line(where: str, runs: Sequence[Row]) -> tuple[str, ...]:
    sites = sorted({", ".join(row["sites"]) or "-" for row in runs})
    accuracies = (spread([row[part] for row in runs]) for part in ("val", "test"))
    return (where, "; ".join(sites), *accuracies, ", ".join(str(row["seed"]) for row in runs))


if __name__ == "__main__":
    main()
