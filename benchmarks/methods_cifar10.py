"""CIFAR-10 on a small ResNet-9: the search methods on equal terms.

    python benchmarks/methods_cifar10.py --data-dir DIR [--work runs/methods] [--epochs 1+2 10+20] [--seeds 0 1 2]

Every method is tried as often as the others, `--trials` times on the first seed, over the rate of the weights and what
is its own (a penalty, mostly); the trial of highest validation accuracy whose search reached the budget by itself (the
projection cut no more than a tenth) is trained on the other seeds too. `--epochs` are those of search and finetuning,
each a table. One teacher, trained on 20,000 images, serves all; `--images` of these train the students, and 2,500
others validate. Finished runs are skipped, stopped ones go on. Writes benchmarks/results/methods_cifar10.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provenance import RESULTS, epochs_of, markdown_table, provenance
from rich.console import Console
from subsets import first_images

BUDGET = 768  # of 15,360: 5 %
TEACHER_IMAGES, VAL_IMAGES = 20_000, 2_500
SLOWER = ["search.lr=1e-3", "finetune.lr=1e-3"]  # than the default 3e-3


@dataclass(frozen=True)
class Arm:
    """A method at a degree, and its own setting that is tried beside the default one."""

    method: str
    degree: int
    default: tuple[str, ...]
    other: tuple[str, ...]
    label: str = ""  # what it is called, if not by its method

    @property
    def title(self) -> str:
        return self.label or self.method

    @property
    def name(self) -> str:
        return f"{self.title}, degree {self.degree}"

    def trials(self) -> list[list[str]]:
        own = [f"search.method={self.method}", f"search.degree={self.degree}"]
        return [[*own, *setting, *rate] for rate in ([], SLOWER) for setting in (self.default, self.other)]


ARMS = (
    Arm("saliency", 2, (), ("search.options.equalise=0.5",)),
    Arm("autorep", 2, (), ("search.options.penalty=300",)),
    Arm("random", 2, (), ("search.options.settle=0.4",)),
    Arm("saliency", 0, (), ("search.options.equalise=0.5",)),
    Arm("snl", 0, (), ("search.options.penalty=1e-3",)),
    Arm("senet", 0, ("finetune.pram_weight=1000",), ()),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/methods"))
    parser.add_argument("--epochs", nargs="+", default=["1+2", "10+20"], metavar="SEARCH+FINETUNE")
    parser.add_argument("--images", type=int, default=TEACHER_IMAGES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=4, choices=range(1, 5))
    arguments = parser.parse_args()
    teacher = make_teacher(arguments)
    lengths = []
    for epochs in arguments.epochs:
        rows = [measure(arguments, teacher, arm, epochs) for arm in ARMS]
        lengths.append({"epochs": epochs, "rows": rows})
        report(arguments, lengths)


def make_teacher(arguments: argparse.Namespace) -> Path:
    from aurep.training.runs import train_baseline

    for count in {TEACHER_IMAGES, arguments.images}:
        first_images(arguments.data_dir, images(arguments, count), count, val=VAL_IMAGES, val_from=TEACHER_IMAGES)
    return train_baseline(configuration(arguments, TEACHER_IMAGES, []), arguments.work / "teacher", Console())


def images(arguments: argparse.Namespace, count: int) -> Path:
    return Path(arguments.work / f"images-{count}.npz")


def configuration(arguments: argparse.Namespace, count: int, overrides: Sequence[str]) -> Any:
    from aurep.training.config import parse_config

    recipe = Path(__file__).with_suffix(".toml")
    data = f"data.name='npz:{images(arguments, count)}'"
    return parse_config(recipe.read_text(), recipe.name, [data, f"search.budget={BUDGET}", *overrides])


def measure(arguments: argparse.Namespace, teacher: Path, arm: Arm, epochs: str) -> dict[str, Any]:
    """An arm's trials on the first seed, and the best of them on all."""
    search, finetune = epochs.split("+")
    length = [f"search.epochs={search}", f"finetune.epochs={finetune}", f"baseline.checkpoint='{teacher}'"]

    def run(trial: int, seed: int) -> dict[str, Any]:
        overrides = [*length, *arm.trials()[trial], f"train.seed={seed}"]
        name = f"{arm.method}{arm.degree}-{epochs}-t{trial}-s{seed}"
        return outcome(configuration(arguments, arguments.images, overrides), arguments.work / name)

    first, *others = arguments.seeds
    trials = [run(number, first) for number in range(arguments.trials)]
    best = best_of(trials)
    seeds = [trials[best], *(run(best, seed) for seed in others)]
    return {"arm": arm.name, "setting": arm.trials()[best][2:], "trials": trials, "seeds": seeds}


def best_of(trials: Sequence[dict[str, Any]]) -> int:
    """The number of that of highest validation accuracy, among those whose search reached the budget by itself."""
    reaching = [trial for trial in trials if trial["reached"]] or trials
    return trials.index(max(reaching, key=lambda trial: float(trial["val"])))


def outcome(config: Any, folder: Path, budget: int = BUDGET) -> dict[str, Any]:
    """What a run within `budget` elements ended with; a collapsed or diverged one with nothing."""
    from aurep.errors import Diverged
    from aurep.training import train

    Console().rule(folder.name)
    try:
        result = train(config, folder, resume=True, console=Console())
    except Diverged as error:  # all else is a mistake in the settings, and no result
        nothing = dict.fromkeys(("teacher", "kept", "recovered"))
        return {"val": 0.0, "test": 0.0, "reached": False, "error": str(error), **nothing}
    rows = [row for row in epochs_of(folder) if row["phase"] == "search"]
    kept = int(rows[-1]["kept_before_projection"])
    return {
        "val": result.val_accuracy,
        "test": result.test_accuracy,
        "teacher": result.teacher_test_accuracy,
        "kept": kept,
        "recovered": sum(int(row["recovered"]) for row in rows),
        "reached": kept - budget <= 0.1 * kept,
    }


def report(arguments: argparse.Namespace, lengths: list[dict[str, Any]]) -> None:
    facts = {**provenance(), "recipe": Path(__file__).with_suffix(".toml").read_text(), "budget": BUDGET}
    facts |= {"seeds": arguments.seeds, "trials": arguments.trials, "lengths": lengths}
    (RESULTS / "methods_cifar10.json").write_text(json.dumps(facts, indent=2) + "\n")
    teacher = lengths[0]["rows"][0]["seeds"][0]["teacher"]
    text = f"# CIFAR-10, ResNet-9 of width 4: {BUDGET} of 15,360 ReLUs by each method, on equal terms\n\n"
    text += f"{facts['hardware']}, {facts['versions']}, {facts['date']}. {arguments.images:,} training images; "
    text += f"one teacher of {teacher:.2f} % test.\nEvery method was tried {arguments.trials} times on seed "
    text += f"{arguments.seeds[0]}; its best trial on the validation images stands here, over seeds "
    text += f"{', '.join(map(str, arguments.seeds))} of search and finetuning.\n"
    command = f"--images {arguments.images} --epochs {' '.join(arguments.epochs)}"
    command += f" --seeds {' '.join(map(str, arguments.seeds))}"
    text += f"Command: `python benchmarks/methods_cifar10.py --data-dir DIR {command} --trials {arguments.trials}`.\n"
    columns = (
        "method",
        "chosen setting",
        "val %",
        "test %",
        "kept before projection",
        "came back",
        "other trials, val %",
    )
    for length in lengths:
        search, finetune = length["epochs"].split("+")
        text += f"\n## {search} + {finetune} epochs of search and finetuning\n\n"
        text += markdown_table(columns, [line(row) for row in length["rows"]])
    (RESULTS / "methods_cifar10.md").write_text(text)
    print(text)


def line(row: dict[str, Any]) -> tuple[str, ...]:
    seeds = row["seeds"]
    others = [f"{trial['val']:.2f}" for trial in row["trials"] if trial is not seeds[0]]
    return (
        row["arm"],
        ", ".join(row["setting"]) or "defaults",
        spread([seed["val"] for seed in seeds]),
        spread([seed["test"] for seed in seeds]),
        ", ".join(str(seed["kept"]) for seed in seeds),
        ", ".join(str(seed["recovered"]) for seed in seeds),
        ", ".join(others) or "-",
    )


def spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


if __name__ == "__main__":
    main()
