"""CIFAR-10 on ResNet-20: the search methods on equal terms.

    python benchmarks/methods_resnet20.py --data-dir DIR [--work runs/methods] [--epochs 1+2] [--seeds 0 1 2]
    python benchmarks/methods_resnet20.py --data-dir DIR --methods snl senet --minutes 120       # a part of it
    python benchmarks/methods_resnet20.py --report                                               # what there is

Every method is tried as often as the others, `--trials` times on the first seed, over the rate of the weights and what
is its own (a penalty, mostly); the trial of highest validation accuracy whose search reached the budget by itself (the
projection cut no more than a tenth) is trained on the other seeds too. A last row keeps no ReLU, for what the kept ones
are worth. One teacher serves all, the zoo's all-ReLU network, which saw the first 45,000 training images; the first
`--images` of them train the students, and 2,500 that it did not see validate.

`--epochs` are those of search and finetuning, each a table. Runs that are in the result file are not made again, so
that it can be filled a part at a time, and on several machines; with --minutes no run starts after so many. Finished
runs in --work are read, stopped ones go on. Writes benchmarks/results/methods_resnet20.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cells import teacher_of, where_of
from provenance import RESULTS, epochs_of, markdown_table, provenance
from rich.console import Console
from subsets import SEEN, VAL_IMAGES, first_images

BUDGET = 4_899  # of 188,416: 2.6 %, the share at which SNL reports its ResNet-18
SLOWER = ["search.lr=1e-3", "finetune.lr=1e-3"]  # the default by now; the trials began from 3e-3
NO_RELU = "search.budget=0"
EARLIER = (  # of all rows so far, here and of what builds on this
    "Range penalty 0.05 and, where no rate is named, rates of 3e-3: the defaults of the day, 0.01 and 1e-3 by now.\n"
)
RECIPE = """
[model]
name = "resnet20"
[train]
batch_size = 128
[search]
lr = 3e-3
range_weight = 0.05
[finetune]
lr = 3e-3
range_weight = 0.05
"""


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
    Arm("random", 2, (NO_RELU,), (NO_RELU, "search.options.settle=0.4"), label="none kept"),
)


@dataclass
class Runs:
    """What runs ended with: those of the result file, and those made for it here."""

    arguments: argparse.Namespace
    file: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.file.exists():
            self.rows = json.loads(self.file.read_text())["runs"]
        self._began = time.monotonic()

    def found(self, arm: Arm, epochs: str, trial: int, seed: int) -> dict[str, Any] | None:
        wanted = self._key(arm, epochs, trial, seed)
        return next((row for row in self.rows if all(row[name] == value for name, value in wanted.items())), None)

    def _key(self, arm: Arm, epochs: str, trial: int, seed: int) -> dict[str, Any]:
        images = self.arguments.images
        return {"arm": arm.name, "epochs": epochs, "setting": arm.trials()[trial][2:], "seed": seed, "images": images}

    def trials(self, arm: Arm, epochs: str) -> list[dict[str, Any]]:
        """Those there are on the first seed, in their order."""
        numbers, seed = range(self.arguments.trials), self.arguments.seeds[0]
        return [row for number in numbers if (row := self.found(arm, epochs, number, seed)) is not None]

    def chosen(self, arm: Arm, epochs: str) -> int | None:
        """The number of the trial that the other seeds repeat, once all have been made."""
        trials = self.trials(arm, epochs)
        if len(trials) < self.arguments.trials:
            return None
        return best_of(trials)

    def seeds(self, arm: Arm, epochs: str) -> list[dict[str, Any]]:
        """The chosen trial's runs."""
        trial = self.chosen(arm, epochs)
        if trial is None:
            return []
        return [row for seed in self.arguments.seeds if (row := self.found(arm, epochs, trial, seed)) is not None]

    def missing(self) -> Iterator[tuple[Arm, str, int, int]]:
        """What is to be made next: all trials of a length, then its other seeds. Changes with what was made."""
        first, *others = self.arguments.seeds
        arms = [arm for arm in ARMS if arm.title in self.arguments.methods]
        for epochs in self.arguments.epochs:
            wanted = [(arm, trial, first) for trial in range(self.arguments.trials) for arm in arms]
            chosen = [(arm, self.chosen(arm, epochs)) for arm in arms]
            wanted += [(arm, trial, seed) for seed in others for arm, trial in chosen if trial is not None]
            yield from ((arm, epochs, *one) for arm, *one in wanted if self.found(arm, epochs, *one) is None)

    def fill(self, teacher: str | None) -> None:
        while (todo := next(self.missing(), None)) is not None:
            if time.monotonic() - self._began > 60 * self.arguments.minutes:
                print(f"{sum(1 for _ in self.missing())} runs or more are still to be made.")
                return
            arm, epochs, trial, seed = todo
            overrides = [*arm.trials()[trial], f"train.seed={seed}"]
            name = f"{arm.title.replace(' ', '-')}{arm.degree}-{epochs}-t{trial}-s{seed}-{self.arguments.images}"
            config = configuration(self.arguments, epochs, overrides, teacher)
            found = outcome(config, self.arguments.work / name, BUDGET)
            self.rows.append({**self._key(*todo), **found, **provenance()})
            self.file.write_text(json.dumps({"budget": BUDGET, "recipe": RECIPE, "runs": self.rows}, indent=2) + "\n")
            report(self)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", help="needed unless --report")
    parser.add_argument("--work", type=Path, default=Path("runs/methods"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--epochs", nargs="+", default=["1+2"], metavar="SEARCH+FINETUNE")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=4, choices=range(1, 5))
    parser.add_argument("--methods", nargs="+", default=sorted({arm.title for arm in ARMS}))
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--teacher", help="an all-ReLU ResNet-20.  [default: the zoo's]")
    parser.add_argument("--report", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    runs = Runs(arguments, arguments.results / "methods_resnet20.json")
    if not arguments.report:
        runs.fill(arguments.teacher)
    report(runs)


def configuration(
    arguments: argparse.Namespace, epochs: str, overrides: Sequence[str], teacher: str | None = None
) -> Any:
    """Of a run of `epochs` SEARCH+FINETUNE from `teacher`, by default the zoo's."""
    from aurep.training.config import parse_config
    from aurep.zoo import resolve

    search, finetune = epochs.split("+")
    checkpoint = Path(teacher or resolve("cifar10-resnet20")).absolute()
    shared = [f"search.epochs={search}", f"finetune.epochs={finetune}", f"baseline.checkpoint='{checkpoint}'"]
    data = arguments.work / f"images-{arguments.images}.npz"
    first_images(arguments.data_dir, data, arguments.images, val=VAL_IMAGES, val_from=SEEN)
    return parse_config(RECIPE, "methods", [f"data.name='npz:{data}'", f"search.budget={BUDGET}", *shared, *overrides])


def best_of(trials: Sequence[dict[str, Any]]) -> int:
    """The number of that of highest validation accuracy, among those whose search reached the budget by itself."""
    reaching = [trial for trial in trials if trial["reached"]] or trials
    return trials.index(max(reaching, key=lambda trial: float(trial["val"])))


def outcome(config: Any, folder: Path, budget: int) -> dict[str, Any]:
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


def report(runs: Runs) -> None:
    arguments = runs.arguments
    text = f"# CIFAR-10, ResNet-20: {BUDGET:,} of 188,416 ReLUs by each method, on equal terms\n\n"
    text += f"{arguments.images:,} training images; one teacher of {teacher_of(runs.rows)} % test.\n"
    text += EARLIER
    text += f"Every method is tried {arguments.trials} times on seed {arguments.seeds[0]}; its best trial on the "
    text += "validation images stands here, over seeds "
    text += f"{', '.join(map(str, arguments.seeds))} of search and finetuning. What has not been run yet is a dash.\n"
    text += "Command: `python benchmarks/methods_resnet20.py --data-dir DIR`.\n"
    columns = ("method", "chosen setting", "val %", "test %", "seeds", "kept before projection", "came back")
    for epochs in arguments.epochs:
        search, finetune = epochs.split("+")
        text += f"\n## {search} + {finetune} epochs of search and finetuning\n\n"
        lines = [line(runs, arm, epochs) for arm in ARMS]
        text += markdown_table((*columns, "other trials, val %"), lines)
    text += "\nMeasured on: " + where_of(runs.rows) + ".\n"
    (arguments.results / "methods_resnet20.md").write_text(text)


def line(runs: Runs, arm: Arm, epochs: str) -> tuple[str, ...]:
    seeds, trials = runs.seeds(arm, epochs), runs.trials(arm, epochs)
    others = [f"{trial['val']:.2f}" for trial in trials if trial not in seeds]
    if not seeds:
        return (arm.name, *["-"] * 6, ", ".join(others) or "-")
    return (
        arm.name,
        ", ".join(seeds[0]["setting"]) or "defaults",
        spread([seed["val"] for seed in seeds]),
        spread([seed["test"] for seed in seeds]),
        str(len(seeds)),
        ", ".join(str(seed["kept"]) for seed in seeds),
        ", ".join(str(seed["recovered"]) for seed in seeds),
        ", ".join(others) or "-",
    )


def spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


if __name__ == "__main__":
    main()
