"""The networks of the literature, trained here: published accuracy beside aurep's.

    python benchmarks/published.py --data-dir DIR                                # everything: days on a CPU
    python benchmarks/published.py --data-dir DIR --recipe cifar10-resnet20-0    # that one alone
    python benchmarks/published.py --report                                      # the table of the runs there are

Every row is a run of a shipped recipe at a budget. The first run of a recipe and seed trains the all-ReLU network, the
teacher of them all; `--teacher RUN` takes one that is there. Runs lie in --work: finished ones are read, stopped ones
go on. A rehearsal: `--set model.width=4 --set baseline.epochs=1 --set search.epochs=1 --set finetune.epochs=1
--results R`.

Published figures are test accuracies in percent of the papers' own runs and teachers: AESPA (Park et al., 2022),
AutoFHE (Ao and Boddeti, USENIX Security 2024) and AutoReP (Peng et al., ICCV 2023). Ours are read once, from
the epoch of the best validation accuracy, as everything was chosen on validation images. The largest input of any site
on validation images is of the last epoch; infinite is one beyond fp32. Hours are those of training on the hardware
named, which may have had other work. Writes benchmarks/results/published.{json,md} after every run.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provenance import RESULTS, epochs_of, markdown_table, provenance
from rich.console import Console

from aurep.results import read_result, result_file


@dataclass(frozen=True)
class Goal:
    """A recipe's network at a budget, and what papers report there."""

    recipe: str
    budget: str
    network: str
    published: str


RESNET20, RESNET32, RESNET32_100 = "CIFAR-10, ResNet-20", "CIFAR-10, ResNet-32", "CIFAR-100, ResNet-32"
RESNET18 = "CIFAR-10, ResNet-18"
GOALS = (
    Goal("cifar10-resnet20-0", "0", RESNET20, "91.92 (AESPA); 92.89 (AutoFHE, higher degrees); all ReLU 92.66"),
    Goal("cifar10-resnet18-12.9k", "12900", RESNET18, "94.31 (AutoReP)"),
    Goal("cifar10-resnet18-12.9k", "6000", RESNET18, "-"),
    Goal("cifar10-resnet18-12.9k", "0", RESNET18, "-"),
    Goal("cifar10-resnet32-0", "0", RESNET32, "90.60 (AESPA); 93.56 (AutoFHE, higher degrees); all ReLU 93.46"),
    Goal("cifar100-resnet32-0", "0", RESNET32_100, "68.43 (AESPA); 71.34 (AutoFHE, higher degrees); all ReLU 70.81"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="needed unless --report")
    parser.add_argument("--work", type=Path, default=Path("runs/published"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--recipe", nargs="+", default=[goal.recipe for goal in GOALS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--teacher", help="a run folder or file to take as the all-ReLU network")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the recipes")
    parser.add_argument("--report", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    if arguments.report:
        report(arguments)
        return
    for seed in arguments.seeds:
        for goal in [goal for goal in GOALS if goal.recipe in arguments.recipe]:
            run(arguments, goal, seed)
            report(arguments)


def folder(arguments: argparse.Namespace, goal: Goal, seed: int) -> Path:
    return Path(arguments.work) / f"{goal.recipe}-at-{goal.budget}-seed-{seed}"


def run(arguments: argparse.Namespace, goal: Goal, seed: int) -> None:
    from aurep.training import train
    from aurep.training.config import parse_config, read_recipe
    from aurep.training.runs import train_baseline

    overrides = [f"data.dir={arguments.data_dir}", f"search.budget={goal.budget}", f"train.seed={seed}", *arguments.set]
    out, recipe = folder(arguments, goal, seed), read_recipe(goal.recipe)
    if result_file(out) is not None:
        return
    Console().rule(out.name)
    teacher = arguments.teacher or train_baseline(
        parse_config(recipe, goal.recipe, overrides), out.with_name(f"{goal.recipe}-teacher-seed-{seed}"), Console()
    )
    config = parse_config(recipe, goal.recipe, [*overrides, f"baseline.checkpoint='{teacher}'"])
    train(config, out, resume=out.exists(), console=Console())
    (out / "provenance.json").write_text(json.dumps({**provenance(), "overrides": arguments.set}))


def report(arguments: argparse.Namespace) -> None:
    path = arguments.results / "published.json"
    rows = {which(each): each for each in (json.loads(path.read_text()) if path.exists() else [])}
    for goal in GOALS:
        for seed in arguments.seeds:
            out = folder(arguments, goal, seed)
            if (out / "provenance.json").exists():
                found = row(goal, seed, out)
                rows[which(found)] = found
    path.write_text(json.dumps(list(rows.values()), indent=2) + "\n")
    text = "# The literature's networks, trained with aurep's recipes\n\n"
    text += "Test accuracies in percent; published figures are of the papers' own runs and teachers. "
    text += "Command: `python benchmarks/published.py --data-dir DIR`.\n\n"
    head = ("network", "ReLUs", "published", "aurep", "its teacher", "epochs, finetuned by", "hours", "seed")
    head += ("largest validation input at the end", "measured on")
    text += markdown_table(head, [line(each) for each in rows.values()])
    (arguments.results / "published.md").write_text(text)
    print(text)


def which(found: dict[str, Any]) -> tuple[Any, ...]:
    """What tells a row from the others."""
    return found["recipe"], found["relu_budget"], found["seed"], found["teacher"], found["finetuned_by"]


def row(goal: Goal, seed: int, out: Path) -> dict[str, Any]:
    from aurep.training.reading import read_config

    result, config = read_result(out), read_config(out)
    teacher = Path(config.baseline.checkpoint or out)
    own = epochs_of(out)
    epochs = [*(epochs_of(teacher) if teacher.is_dir() and teacher != out else ()), *own]
    students = [each for each in own if each["phase"] != "baseline"]
    return {
        "recipe": goal.recipe,
        "network": goal.network,
        "published": goal.published,
        "seed": seed,
        "teacher": teacher.name,
        "finetuned_by": f"{config.finetune.optimizer} at {config.finetune.lr:g}",
        **result.model_dump(include={"relu_budget", "relu_count", "relu_total"}),
        **{key: value for key, value in result.training.model_dump().items() if "accuracy" in key},
        "epochs": {name: sum(each["phase"] == name for each in epochs) for name in ("baseline", "search", "finetune")},
        "val": [float(each["val_accuracy"]) for each in students],
        "train": [float(each["train_accuracy"]) for each in students],
        "largest input": [float(each["largest_input"]) for each in students],
        "hours": sum(float(each["seconds"]) for each in epochs) / 3600,
        **json.loads((out / "provenance.json").read_text()),
    }


def line(found: dict[str, Any]) -> tuple[str, ...]:
    return (
        found["network"],
        f"{found['relu_count']:,} of {found['relu_total']:,}",
        found["published"],
        f"**{found['test_accuracy']:.2f}**",
        f"{found['teacher_test_accuracy']:.2f} ({found['teacher']})",
        f"{' + '.join(map(str, found['epochs'].values()))}, {found['finetuned_by']}",
        f"{found['hours']:.1f}",
        str(found["seed"]),
        f"{found['largest input'][-1]:.3g}",
        f"{found['hardware']}, {found['versions']}, {found['date']}",
    )


if __name__ == "__main__":
    main()
