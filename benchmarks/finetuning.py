"""How a student of polynomials is best finetuned, once there is time for it: optimisers, losses and augmentation.

    OMP_NUM_THREADS=2 python benchmarks/finetuning.py --data-dir DIR [--teacher RUN] [--images 10000] [--settings NAME]

ResNet-20 with no ReLU at degree 2, from one teacher and one seed: one search, at the rate that was the default when
these runs began, then finetuning long enough that the training images are learnt better than the others. Settings
differ in finetuning; one in the search's rate too, and mixup has a say there. `--images` takes the first so many
training images; 2,500 of the last 5,000, which no teacher of the zoo has seen, validate. The test set is not touched.
Finished runs are read, stopped ones go on.

Writes benchmarks/results/finetuning.{json,md}.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provenance import RESULTS, epochs_of, markdown_table, provenance
from rich.console import Console
from subsets import SEEN, VAL_IMAGES, first_images

EMA = 0.99  # reaches over the last 100 steps
ADAMW = {"optimizer": "adamw", "coefficient_lr": 1e-3}
BEFORE = ADAMW | {"lr": 3e-3}  # the default of the day these runs began, which every search has
SGD = {"optimizer": "sgd", "weight_decay": 5e-4, "final_lr": 0.0}
FAST, SLOW = {"lr": 0.1, "coefficient_lr": 0.01}, {"lr": 0.03, "coefficient_lr": 0.03}
NO_LABELS = {"ce_weight": 0.0}


@dataclass(frozen=True)
class Setting:
    """What is set in [finetune], and in [data] and [search] beside what all runs have there."""

    finetune: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)
    search: dict[str, Any] = field(default_factory=dict)


SETTINGS = {
    "adamw": Setting(BEFORE),
    "adamw-decay": Setting(BEFORE | {"weight_decay": 0.1}),
    "adamw-slower": Setting(ADAMW | {"lr": 1e-3}),
    "adamw-slower-search": Setting(ADAMW | {"lr": 1e-3}, search={"lr": 1e-3}),
    "adamw-slowest": Setting(ADAMW | {"lr": 3e-4}),
    "sgd": Setting(SGD | FAST),
    "sgd-slower": Setting(SGD | SLOW),
    "sgd-no-labels": Setting(SGD | FAST | NO_LABELS),
    "sgd-no-labels-mixup": Setting(SGD | FAST | NO_LABELS, {"mixup": 1.0}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--teacher", default="zoo/cifar10-resnet20-80", help="a run folder or file")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, nargs=2, default=(1, 16), metavar=("SEARCH", "FINETUNE"))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--work", type=Path, default=Path("runs/finetuning"))
    arguments = parser.parse_args()
    file = arguments.work / f"images-{arguments.images}.npz"
    data = first_images(arguments.data_dir, file, arguments.images, val=VAL_IMAGES, val_from=SEEN, test=0)
    for name in arguments.settings:
        run(arguments, data, SETTINGS[name], arguments.work / name)
    report(arguments)


def run(arguments: argparse.Namespace, data: Path, setting: Setting, out: Path) -> None:
    from aurep.training import train

    search, finetune = arguments.epochs
    config = {
        "model": {"name": "resnet20"},
        "data": {"name": f"npz:{data}", "alternating": True, "cutout": 8} | setting.data,
        "train": {"precision": "bf16"},
        "baseline": {"checkpoint": arguments.teacher},
        "search": {"method": "random", "budget": 0, "degree": 2, "epochs": search} | BEFORE | setting.search,
        "finetune": {"epochs": finetune, "ema": EMA} | setting.finetune,
    }
    result = train(config, out, resume=out.exists(), console=Console())
    if not (out / "provenance.json").exists():
        accuracies = {"val": result.val_accuracy, "teacher": result.teacher_val_accuracy}
        (out / "provenance.json").write_text(json.dumps({**provenance(), **accuracies, **vars(setting)}))


def report(arguments: argparse.Namespace) -> None:
    """Of the runs there are, chosen now or before."""
    runs = {name: arguments.work / name for name in SETTINGS if (arguments.work / name / "provenance.json").exists()}
    rows = {
        name: {
            **json.loads((out / "provenance.json").read_text()),
            "epochs": [row for row in epochs_of(out) if row["phase"] == "finetune"],
        }
        for name, out in runs.items()
    }
    facts = {"images": arguments.images, "epochs": list(arguments.epochs), "runs": rows}
    (RESULTS / "finetuning.json").write_text(json.dumps(facts, indent=2) + "\n")
    search, finetune = arguments.epochs
    text = "# Finetuning a ResNet-20 of polynomials: optimisers, losses, augmentation\n\n"
    teacher = next(iter(rows.values()))["teacher"]
    text += f"CIFAR-10, no ReLU, degree 2, {arguments.images:,} training images, {search} + {finetune} epochs of "
    text += f"search and finetuning, one seed; teacher {teacher:.2f} % of the {VAL_IMAGES:,} validation images "
    text += f"(standard error 0.6). Running averages of weights at {EMA}.\n"
    text += "Command: `python benchmarks/finetuning.py --data-dir DIR`.\n\n"
    head = ("setting", "keys of [finetune], and others", "best val %", "val % by epoch", "train % at the end")
    text += markdown_table(head, [line(name, row) for name, row in rows.items()])
    last = list(rows.values())[-1]
    text += f"\nMeasured on: {last['hardware']}, {last['versions']}, {last['date']}.\n"
    (RESULTS / "finetuning.md").write_text(text)
    print(text)


def line(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    changes = row["finetune"] | row["data"] | {f"search.{key}": value for key, value in row["search"].items()}
    keys = ", ".join(f"{key} {value:g}" for key, value in changes.items() if key != "optimizer")
    return (
        name,
        keys,
        f"{row['val']:.2f}",
        " ".join(f"{float(epoch['val_accuracy']):.1f}" for epoch in row["epochs"]),
        f"{float(row['epochs'][-1]['train_accuracy']):.1f}",
    )


if __name__ == "__main__":
    main()
