"""Accuracy over rounds and over count: a budget kept at all sites of a network, at 8, 4, 2, 1, or none; other budgets.

    OMP_NUM_THREADS=2 python benchmarks/rounds.py --data-dir DIR [--model resnet20] [--teacher RUN] [--images 45000]

From one teacher, degree 2, `--method` under `--max-sites` K: the elements are as many wherever the K sites hold them,
so that what differs is how many comparisons lie one after the other. Beside them `--counts` at all sites, where
elements differ and rounds do not. Every network is exported for CrypTen; count, bytes and rounds are read from the
file's graph by the cost model of `aurep inspect` (benchmarks/results/pi_cost.md), and the test accuracy is the run's
one look at all 10,000 test images. `--images` takes the first so many training images, the last tenth of them for
validation, for a look in minutes. A run that was stopped goes on.

Writes benchmarks/results/rounds_<model>.{json,md,svg} and counts_<model>.svg.
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
    parser.add_argument("--counts", nargs="+", default=["20%", "1%"], metavar="BUDGET")
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
    rows = [measured(config, arguments.budget, most, arguments.work) for most in SITES]
    rows += [measured(config, budget, None, arguments.work) for budget in arguments.counts]
    report(arguments, rows)


def teacher(config: dict[str, Any], out: Path) -> str:
    from aurep.training.config import check_config
    from aurep.training.runs import train_baseline

    return str(train_baseline(check_config(config), out, Console()))


def measured(config: dict[str, Any], budget: str, most: int | None, work: Path) -> dict[str, Any]:
    """Train within `budget` with ReLUs at `most` sites, and count what the exported graph costs."""
    from aurep import export, load_run, train
    from aurep.validators import inspect

    out = work / f"{budget.replace('%', '-percent')}-{'all' if most is None else most}-sites"
    search = config["search"] | {"budget": budget} | ({} if most is None else {"max_sites": most})
    fields = config | {"search": search}
    result = train(fields, out, resume=out.exists(), console=Console())
    run = load_run(out)
    found = inspect(export(run.model, run.example_input, work / f"{out.name}.onnx", target="crypten"))
    costs = {f"{e['framework']} {e['protocol']}": e for e in found.estimates}
    return {
        "budget": budget,
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

    facts = {
        **provenance(),
        **{key: value for key, value in vars(arguments).items() if key not in ("data_dir", "work")},
    }
    facts["rows"] = rows
    model, epochs, first = arguments.model, arguments.epochs, rows[0]
    share = first["test_accuracy"] / 100  # of the 10,000 test images
    (RESULTS / f"rounds_{model}.json").write_text(json.dumps(facts, indent=2) + "\n")
    (RESULTS / f"rounds_{model}.svg").write_text(svg(lambda axes: draw(axes, rows, "rounds"), 4.0))
    (RESULTS / f"counts_{model}.svg").write_text(svg(lambda axes: draw(axes, rows, "relu_count"), 4.0))
    text = f"""# {model} on CIFAR-10: accuracy over rounds, and over count

{facts["hardware"]}, {facts["versions"]}, {facts["date"]}.
Teacher {first["teacher_test_accuracy"]:.2f} % on the test images; {first["relu_total"]:,} elements.
`{arguments.method}`, degree 2, {epochs[1]} + {epochs[2]} epochs of search and finetuning on the first
{arguments.images:,} training images, a tenth of them for validation, which the teacher may have trained on. One seed;
the standard error of a test accuracy is {(share * (1 - share) / 10_000) ** 0.5:.1%}.
Command: `python benchmarks/rounds.py --data-dir DIR --model {model} --teacher RUN --images {arguments.images}
--epochs {" ".join(map(str, epochs))} --budget {arguments.budget} --counts {" ".join(arguments.counts)}`.

{markdown_table(HEAD, [line(row) for row in rows])}
MB: activation traffic of an image, the opening of secret weights aside.

![accuracy over rounds](rounds_{model}.svg)

![accuracy over count](counts_{model}.svg)
"""
    (RESULTS / f"rounds_{model}.md").write_text(text)
    print(text)


HEAD = ("ReLUs", "sites at most", "test %", "val %", "CrypTen rounds", "CrypTen MB", "SEMI2K MB", "where they are")


def line(row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        f"{row['relu_count']:,}",
        "all" if row["max_sites"] is None else row["max_sites"],
        f"{row['test_accuracy']:.2f}",
        "–" if row["val_accuracy"] is None else f"{row['val_accuracy']:.2f}",
        row["rounds"],
        *(f"{row['activation_bytes'][protocol] / 1e6:.2f}" for protocol in ("crypten Beaver", "spu SEMI2K")),
        ", ".join(row["sites"]) if row["relu_sites"] <= 4 else row["relu_sites"],
    )


def draw(axes: Axes, rows: list[dict[str, Any]], over: str) -> None:
    """Two lines from no ReLU upwards: more sites for one count of ReLUs, more ReLUs at all sites."""
    from aurep.training.plots import COLOURS

    few = [row for row in rows if row["budget"] == rows[0]["budget"]]
    every = [row for row in rows if row["max_sites"] is None or not row["relu_count"]]
    drawn = (
        (f"{rows[0]['relu_count']:,} ReLUs; number: sites with ReLUs", few, "relu_sites", "right", -6),
        ("all sites; number: ReLUs", every, "relu_count", "left", 6),
    )
    for (label, line_rows, key, side, shift), colour in zip(drawn, COLOURS, strict=False):
        line_rows.sort(key=lambda row: row[key])
        points = [(row[over], row["test_accuracy"]) for row in line_rows]
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", label=label)
        for row, place in zip(line_rows, points, strict=True):
            axes.annotate(f"{row[key]:,}", place, (shift, 3), textcoords="offset points", ha=side, color=colour)
    axes.axhline(rows[0]["teacher_test_accuracy"], color=COLOURS[6], linestyle="--", linewidth=1, label="all ReLUs")
    axes.set_xlabel("rounds of one inference in CrypTen" if over == "rounds" else "ReLUs kept")
    axes.set_ylabel("test accuracy, %")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.1)
    axes.legend()


if __name__ == "__main__":
    main()
