"""Accuracy over rounds: one element budget, kept at all sites of a network, at 8, 4, 2, 1, or at none.

    OMP_NUM_THREADS=2 python benchmarks/rounds.py --data-dir DIR [--model resnet20] [--teacher RUN] [--images 45000]

From one teacher, degree 2, `--method` under `--max-sites` K: the elements are as many wherever the K sites hold them,
so that what differs is how many comparisons lie one after the other. Every network is exported for CrypTen; count,
bytes and rounds are read from the file's graph by the cost model of `aurep inspect` (benchmarks/results/pi_cost.md),
and the test accuracy is the run's one look at all 10,000 test images. `--images` takes the first so many training
images, the last tenth of them for validation, for a look in minutes. A run that was stopped goes on.

Writes benchmarks/results/rounds_<model>.{json,md,svg}.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provenance import RESULTS, markdown_table, provenance
from rich.console import Console
from subsets import first_images

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SITES = (None, 8, 4, 2, 1, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--teacher", help="a run folder or file to take instead of training one")
    parser.add_argument("--budget", default="5%")
    parser.add_argument("--method", default="saliency")
    parser.add_argument("--images", type=int, default=45000)
    parser.add_argument("--epochs", type=int, nargs=3, default=(20, 4, 12), metavar=("BASELINE", "SEARCH", "FINETUNE"))
    parser.add_argument("--work", type=Path, default=Path("runs/rounds"))
    arguments = parser.parse_args()
    data = first_images(arguments.data_dir, arguments.work / f"cifar10-{arguments.images}.npz", arguments.images)
    baseline, search, finetune = arguments.epochs
    config: dict[str, Any] = {
        "model": {"name": arguments.model},
        "data": {"name": f"npz:{data}"},
        "baseline": {"epochs": baseline, "lr": 0.2},
        "search": {"method": arguments.method, "budget": arguments.budget, "degree": 2, "epochs": search},
        "finetune": {"epochs": finetune},
    }
    config["baseline"]["checkpoint"] = arguments.teacher or teacher(config, arguments.work / "teacher")
    rows = [measured(config, most, arguments.work) for most in SITES]
    report(arguments, rows)


def teacher(config: dict[str, Any], out: Path) -> str:
    from aurep.training.config import check_config
    from aurep.training.runs import train_baseline

    return str(train_baseline(check_config(config), out, Console()))


def measured(config: dict[str, Any], most: int | None, work: Path) -> dict[str, Any]:
    """Train with ReLUs at `most` sites, and count what the exported graph costs."""
    from aurep import export, load_run, train
    from aurep.validators import inspect

    out = work / ("all" if most is None else f"{most}-sites")
    fields = config | {"search": config["search"] | ({} if most is None else {"max_sites": most})}
    result = train(fields, out, resume=out.exists(), console=Console())
    run = load_run(out)
    found = inspect(export(run.model, run.example_input, work / f"{out.name}.onnx", target="crypten"))
    costs = {f"{e['framework']} {e['protocol']}": e for e in found.estimates}
    return {
        "max_sites": most,
        "relu_sites": result.relu_sites,
        "sites": [site.name for site in result.sites if site.kept],
        "relu_count": found.relu_count,
        "relu_total": found.relu_total,
        "val_accuracy": result.val_accuracy,
        "test_accuracy": result.test_accuracy,
        "teacher_test_accuracy": result.teacher_test_accuracy,
        "rounds": costs["crypten Beaver"]["rounds"],
        "activation_bytes": {name: e["bytes"] - e["weight_opening"] for name, e in costs.items()},
        "seconds": result.seconds,
    }


def report(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    from aurep.training.plots import svg

    facts = {**provenance(), **{key: str(value) for key, value in vars(arguments).items() if key != "data_dir"}}
    facts["rows"] = rows
    name = f"rounds_{arguments.model}"
    (RESULTS / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n")
    (RESULTS / f"{name}.svg").write_text(svg(lambda axes: draw(axes, rows), 4.0))
    lines = [
        (
            "all" if row["max_sites"] is None else row["max_sites"],
            f"{row['relu_count']:,}",
            f"{row['test_accuracy']:.2f}",
            "–" if row["val_accuracy"] is None else f"{row['val_accuracy']:.2f}",
            row["rounds"],
            *(f"{row['activation_bytes'][protocol] / 1e6:.2f}" for protocol in ("crypten Beaver", "spu SEMI2K")),
            ", ".join(row["sites"]) if row["relu_sites"] <= 4 else row["relu_sites"],
        )
        for row in rows
    ]
    epochs, first = arguments.epochs, rows[0]
    text = f"# {arguments.model} on CIFAR-10: accuracy over rounds\n\n"
    text += (
        f"{facts['hardware']}, {facts['versions']}, {facts['date']}. Teacher {first['teacher_test_accuracy']:.2f} % "
    )
    text += f"on the test images; budget {arguments.budget} of {first['relu_total']:,} elements, `{arguments.method}`, "
    text += f"degree 2, {epochs[1]} epochs of search and {epochs[2]} of finetuning on the first {arguments.images:,} "
    text += "training images, a tenth of them for validation. One seed.\n"
    text += f"Command: `python benchmarks/rounds.py --data-dir DIR --model {arguments.model} --teacher RUN "
    text += f"--budget {arguments.budget} --images {arguments.images} --epochs {' '.join(map(str, epochs))}`.\n\n"
    head = ("sites at most", "ReLUs", "test %", "val %", "CrypTen rounds", "CrypTen MB", "SEMI2K MB", "where they are")
    text += markdown_table(head, lines)
    text += "\nMB: activation traffic of an image, the opening of secret weights aside.\n\n"
    text += f"![accuracy over rounds]({name}.svg)\n"
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


def draw(axes: Axes, rows: list[dict[str, Any]]) -> None:
    from aurep.training.plots import COLOURS

    axes.plot([r["rounds"] for r in rows], [r["test_accuracy"] for r in rows], color=COLOURS[0], marker="o")
    for row in rows:
        most = "all" if row["max_sites"] is None else row["max_sites"]
        place = (row["rounds"], row["test_accuracy"])
        axes.annotate(f"{most} sites, {row['relu_count']:,}", place, (5, -12), textcoords="offset points")
    axes.axhline(
        rows[0]["teacher_test_accuracy"], color=COLOURS[1], linestyle="--", linewidth=1, label="teacher, all ReLU"
    )
    axes.set_xlabel("rounds of one inference in CrypTen")
    axes.set_ylabel("test accuracy, %")
    axes.margins(x=0.15)
    axes.legend(loc="lower right")


if __name__ == "__main__":
    main()
