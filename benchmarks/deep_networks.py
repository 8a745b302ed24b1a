"""Default settings on deep networks: all of them at few ReLUs and none, in bf16 and fp32. Does any collapse?

    python benchmarks/deep_networks.py --data-dir DIR --network resnet20 [--precision bf16 fp32] [--budget 0 1% 5%]

A teacher is trained for each network and precision, then a student for each budget, with every setting of search and
finetuning as it is by default (AutoReP at degree 2), but for lengths: `--images` CIFAR-10 training images and
`--epochs` make it a matter of minutes. 1,000 other training images validate; the test set is not touched. Read are the
outcome, the accuracies and the largest input that any site saw in validation. Rows of other networks, precisions,
budgets and defaults (fit, range penalty, rate) that are in the result file stay there, those of earlier defaults in a
table of their own. Finished runs are read and stopped ones go on.

Writes benchmarks/results/deep_networks.{json,md}.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from provenance import RESULTS, epochs_of, markdown_table, provenance
from rich.console import Console
from subsets import first_images

VAL_IMAGES = 1_000
KEYS = ("network", "precision", "budget", "fit", "range_weight", "lr")
HEAD = ("network", "precision", "budget", "images, batch, epochs", "teacher, val %", "student, val % by epoch")
HEAD += ("largest input by epoch", "where, at the end", "outcome")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--network", required=True)
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--budget", nargs="+", default=["0", "1%", "5%"])
    parser.add_argument("--images", type=int, default=8_000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, nargs=3, default=(10, 1, 3), metavar=("BASELINE", "SEARCH", "FINETUNE"))
    parser.add_argument("--work", type=Path, default=Path("runs/deep"))
    arguments = parser.parse_args()
    file = arguments.work / f"images-{arguments.images}.npz"
    data = first_images(arguments.data_dir, file, arguments.images, val=VAL_IMAGES, test=0)
    for precision in arguments.precision:
        folder = arguments.work / f"{arguments.network}-{precision}-{arguments.images}"
        checkpoint = teacher(configuration(arguments, data, precision, "0", None), folder / "teacher")
        for budget in arguments.budget:
            config = configuration(arguments, data, precision, budget, checkpoint)
            keep(row(arguments, precision, budget, config, folder / budget.replace("%", "-percent")))
    report()


def configuration(
    arguments: argparse.Namespace, data: Path, precision: str, budget: str, checkpoint: str | None
) -> dict[str, Any]:
    baseline, search, finetune = arguments.epochs
    return {
        "model": {"name": arguments.network},
        "data": {"name": f"npz:{data}"},
        "train": {"precision": precision, "batch_size": arguments.batch_size},
        "baseline": {"epochs": baseline} | ({"checkpoint": checkpoint} if checkpoint else {}),
        "search": {"budget": budget, "epochs": search},
        "finetune": {"epochs": finetune},
    }


def teacher(config: dict[str, Any], folder: Path) -> str:
    from aurep.training.config import check_config
    from aurep.training.runs import train_baseline

    return str(train_baseline(check_config(config), folder, Console()))


def defaults() -> dict[str, Any]:
    """The settings that were others on earlier days."""
    from aurep.training.config import SearchConfig

    return SearchConfig().model_dump(include={"fit", "range_weight", "lr"})


def row(
    arguments: argparse.Namespace, precision: str, budget: str, config: dict[str, Any], folder: Path
) -> dict[str, Any]:
    from aurep.errors import Diverged
    from aurep.training import train

    found: dict[str, Any] = {**provenance(), "network": arguments.network, "precision": precision, "budget": budget}
    found |= defaults()
    found |= {"images": arguments.images, "batch size": arguments.batch_size, "epochs": list(arguments.epochs)}
    try:
        result = train(config, folder, resume=folder.exists(), console=Console())
        found |= {"outcome": "finished", "teacher": result.teacher_val_accuracy, "sites": len(result.sites)}
    except Diverged as error:
        found |= {"outcome": str(error), "teacher": None, "sites": None}
    rows = [each for each in epochs_of(folder) if each["phase"] != "baseline"]
    found["val"] = [float(each["val_accuracy"]) for each in rows]
    found["largest input"] = [float(each["largest_input"]) for each in rows]
    found["where"] = rows[-1]["largest_input_site"]
    return found


def keep(found: dict[str, Any]) -> None:
    """Put a row into the result file, in place of one of the same `KEYS`."""
    path = RESULTS / "deep_networks.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    rows = [each for each in rows if any(each[key] != found[key] for key in KEYS)]
    path.write_text(json.dumps([*rows, found], indent=2) + "\n")


def report() -> None:
    rows = json.loads((RESULTS / "deep_networks.json").read_text())
    last, current = rows[-1], defaults()
    today = [each for each in rows if current.items() <= each.items()]
    earlier = [each for each in rows if each not in today]
    networks = list(dict.fromkeys(each["network"] for each in rows))
    today.sort(key=lambda each: (networks.index(each["network"]), each["precision"], each["budget"]))
    text = f"""# Deep networks at few ReLUs and none, with default settings

CIFAR-10, AutoReP at degree 2, one seed, short runs that show whether a network collapses and not how good it can
become. A teacher for each network and precision; the same images for both. Every row's date, versions and hardware
are in deep_networks.json; the last: {last["hardware"]}, {last["versions"]}, {last["date"]}.
Command: `python benchmarks/deep_networks.py --data-dir DIR --network NAME --images N --batch-size B --epochs E E E`.

## Today's defaults (fit, range penalty, rate: {told(current)})

{markdown_table(HEAD, [line(each) for each in today])}
## Earlier defaults

{markdown_table((*HEAD, "fit, range penalty, rate"), [(*line(each), told(each)) for each in earlier])}"""
    (RESULTS / "deep_networks.md").write_text(text)


def told(settings: dict[str, Any]) -> str:
    return f"{settings['fit']}, {settings['range_weight']:g}, {settings['lr']:g}"


def line(found: dict[str, Any]) -> tuple[str, ...]:
    return (
        found["network"],
        found["precision"],
        found["budget"],
        f"{found['images']:,}, {found['batch size']}, {' + '.join(map(str, found['epochs']))}",
        f"{found['teacher']:.1f}" if found["teacher"] is not None else "-",
        " ".join(f"{value:.1f}" for value in found["val"]),
        " ".join(f"{value:.3g}" for value in found["largest input"]),
        found["where"],
        found["outcome"],
    )


if __name__ == "__main__":
    main()
