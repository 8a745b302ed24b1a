"""The headline: ResNet-18 on CIFAR-10 within 12,900 ReLUs, then other budgets and degrees.

    python benchmarks/headline.py --data-dir DIR                    # everything, 12.9K first
    python benchmarks/headline.py --data-dir DIR --cells 12900:2    # that one alone
    python benchmarks/headline.py --data-dir DIR --minutes 25       # start no further run after so long

Every cell is a run of the recipe `cifar10-resnet18-12.9k` with another budget, degree or seed. The first run of a seed
trains the baseline, which the others of that seed share; `pipeline_seconds` has the baseline's time in it either way.
Runs lie in --work: finished ones are skipped, stopped ones go on. After each cell benchmarks/results/headline.{json,md}
are written anew, and once the cell 12900:2 of the first seed is done, its network goes to zoo/cifar10-resnet18-12.9k as
fp16 weights, measured again as such. A rehearsal on a CPU:

    python benchmarks/headline.py --data-dir DIR --cells 12900:2 --seeds 0 --results R --zoo Z --work W \\
        --set model.width=4 --set baseline.epochs=1 --set search.epochs=1 --set finetune.epochs=1
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from provenance import RESULTS, epochs_of, markdown_table, provenance
from rich.console import Console

from aurep.results import RunResult, read_result, result_file

RECIPE = "cifar10-resnet18-12.9k"
HEADLINE = "12900:2"
CELLS = (HEADLINE, "0:2", "6000:2", "25000:2", "50000:2", "12900:1", "12900:0")
GOAL_ACCURACY, GOAL_SECONDS = 94.31, 600
ZOO = Path(__file__).parent.parent / "zoo"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/headline"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--zoo", type=Path, default=ZOO)
    parser.add_argument("--cells", nargs="+", default=CELLS, metavar="BUDGET:DEGREE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no further run after so long")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the recipe")
    arguments = parser.parse_args()
    started, rows = time.monotonic(), []
    for seed, cell in in_order(arguments.cells, arguments.seeds):
        if time.monotonic() - started > 60 * arguments.minutes:
            break
        rows.append(run_cell(arguments, cell, seed))
        report(rows, arguments)
        if (seed, cell) == (arguments.seeds[0], HEADLINE):
            publish(arguments, run_folder(arguments, cell, seed))


def in_order(cells: list[str], seeds: list[int]) -> list[tuple[int, str]]:
    """The headline with its first seed, the other cells, then the headline's other seeds, then theirs."""
    first, rest = seeds[0], seeds[1:]
    ordered = [(first, cell) for cell in cells]
    ordered += [(seed, cell) for seed in rest for cell in cells if cell == HEADLINE]
    return ordered + [(seed, cell) for seed in rest for cell in cells if cell != HEADLINE]


def run_folder(arguments: argparse.Namespace, cell: str, seed: int) -> Path:
    work: Path = arguments.work
    return work / f"{cell.replace(':', '-degree')}-s{seed}"


def run_cell(arguments: argparse.Namespace, cell: str, seed: int) -> dict[str, Any]:
    from aurep.training import train
    from aurep.training.config import parse_config, read_recipe

    budget, degree = cell.split(":")
    out, baseline = run_folder(arguments, cell, seed), arguments.work / f"baseline-s{seed}"
    overrides = [f"data.dir={arguments.data_dir}", f"search.budget={budget}", f"search.degree={degree}"]
    overrides += [f"train.seed={seed}", *arguments.set]
    if baseline.exists():
        overrides.append(f"baseline.checkpoint='{baseline}'")
    if result_file(out) is None:
        train(parse_config(read_recipe(RECIPE), RECIPE, overrides), out, resume=out.exists(), console=Console())
    if not baseline.exists():  # the first run of a seed trained it
        baseline.mkdir(parents=True)
        for name in ("metrics.csv", "teacher.safetensors"):
            (baseline / name).write_bytes((out / name).read_bytes())
    return row_of(out, baseline, cell, seed)


def row_of(out: Path, baseline: Path, cell: str, seed: int) -> dict[str, Any]:
    result = read_result(out)
    speeds = {**speed_of(baseline), **speed_of(out)}
    return {
        "cell": cell,
        "seed": seed,
        **result.model_dump(include={"relu_budget", "relu_count", "relu_total"}),
        **{key: value for key, value in result.training.model_dump().items() if "accuracy" in key},
        "config_sha256": result.training.config_sha256,
        "pipeline_seconds": sum(speed["seconds"] for speed in speeds.values()),
        "phases": speeds,
    }


def speed_of(run: Path) -> dict[str, dict[str, float]]:
    """Phase -> epochs, seconds, images per second."""
    found: dict[str, dict[str, float]] = {}
    for row in epochs_of(run):
        phase = found.setdefault(row["phase"], {"epochs": 0, "seconds": 0.0, "images": 0.0})
        phase["epochs"] += 1
        phase["seconds"] += float(row["seconds"])
        phase["images"] += float(row["seconds"]) * float(row["images_per_second"])
    return {
        name: {"epochs": p["epochs"], "seconds": p["seconds"], "images_per_second": p["images"] / p["seconds"]}
        for name, p in found.items()
    }


def publish(arguments: argparse.Namespace, run: Path) -> None:
    """The run as a zoo entry, with the accuracies that its rounded weights really have, and its card."""
    from aurep.training import load_run
    from aurep.training.checkpoint import RunFolder
    from aurep.training.engine import evaluate
    from aurep.training.pipeline import Pipeline
    from aurep.training.progress import Progress
    from aurep.zoo import pack, update_claims

    folder = arguments.zoo / RECIPE
    pack(run, folder)
    loaded = load_run(folder)
    data = loaded.config.data.model_copy(update={"dir": arguments.data_dir})
    pipeline = Pipeline(loaded.config.model_copy(update={"data": data}), RunFolder(folder), Progress(None))
    model = loaded.model.to(pipeline.fabric.device)
    splits = [split for split in ("val", "test") if len(getattr(pipeline.data, f"x_{split}"))]
    accuracies = {f"{split}_accuracy": evaluate(model, pipeline._loader(split)) for split in splits}
    update_claims(folder, **accuracies)
    (folder / "README.md").write_text(card(read_result(folder)))


def card(result: RunResult) -> str:
    where = provenance()
    return f"""# ResNet-18, CIFAR-10, {result.relu_count:,} of {result.relu_total:,} ReLUs

Trained by `python benchmarks/headline.py` with the recipe `{RECIPE}`, seed {result.training.seed}; the other
activations are polynomials of degree 2. Weights are stored as fp16; polynomials and batch norms keep fp32.

- test accuracy with these weights: {result.test_accuracy:.2f} %
- test accuracy of its all-ReLU teacher: {result.teacher_test_accuracy:.2f} %
- {where["hardware"]}, {where["versions"]}, {where["date"]}

```
aurep export zoo:{RECIPE} -o bundle
aurep validate bundle --run zoo:{RECIPE} --data cifar10 --data-dir DIR
```
"""


def report(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    facts = {**provenance(), "recipe": RECIPE, "overrides": arguments.set, "rows": rows}
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "headline.json").write_text(json.dumps(facts, indent=2) + "\n")
    lines = []
    for cell in dict.fromkeys(row["cell"] for row in rows):
        own = [row for row in rows if row["cell"] == cell]
        accuracy = [row["test_accuracy"] for row in own]
        spread = f" ± {statistics.stdev(accuracy):.2f}" if len(own) > 1 else ""
        values = (f"{own[0]['relu_count']:,}", cell.split(":")[1], len(own), f"{statistics.mean(accuracy):.2f}{spread}")
        teacher = statistics.mean(row["teacher_test_accuracy"] for row in own)
        seconds = statistics.mean(row["pipeline_seconds"] for row in own)
        lines.append((*values, f"{teacher:.2f}", f"{seconds:.0f}"))
    text = "# ResNet-18 on CIFAR-10 within a ReLU budget (491,520 in all)\n\n"
    text += f"{facts['hardware']}, {facts['versions']}, {facts['date']}. Recipe `{RECIPE}`"
    text += f" with {', '.join(arguments.set)}.\n" if arguments.set else ".\n"
    text += f"Goal at 12,900: {GOAL_ACCURACY} % in {GOAL_SECONDS} s, baseline included. "
    text += "Checkpoints are chosen on validation.\n\n"
    text += markdown_table(("ReLUs kept", "degree", "seeds", "test %", "teacher test %", "seconds"), lines)
    (arguments.results / "headline.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
