"""CIFAR-10 on a narrow ResNet-9: what degree 2, 1 and 0 are worth at 20 %, 5 %, 2 % (and 0 %) of its ReLUs.

    python benchmarks/cifar10_degrees.py --data-dir DIR [--work runs/degrees]

One baseline is trained and shared as teacher; every cell is a run of the recipe cifar10_degrees.toml with another
budget and degree, exported and measured again on ONNX Runtime over the whole test set. Runs lie in --work: finished
ones are skipped, stopped ones go on. Writes benchmarks/results/cifar10_degrees.{json,md}.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from provenance import RESULTS, epochs_of, markdown_table, provenance
from rich.console import Console

from aurep.results import read_result, result_file

BUDGETS = ("20%", "5%", "2%", "0%")
DEGREES = (2, 1, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/degrees"))
    parser.add_argument("--train-only", action="store_true", help="leave exporting and measuring for later")
    arguments = parser.parse_args()
    cells = [(budget, degree) for budget in BUDGETS for degree in DEGREES if budget != "0%" or degree == 2]
    runs = [train_cell(arguments, budget, degree) for budget, degree in cells]
    if arguments.train_only:
        return
    rows = [measure(run, budget, degree, arguments.data_dir) for run, (budget, degree) in zip(runs, cells, strict=True)]
    report(rows, training_seconds(arguments.work / "baseline", ("baseline",)))


def train_cell(arguments: argparse.Namespace, budget: str, degree: int) -> Path:
    from aurep.training import train
    from aurep.training.config import parse_config

    baseline = arguments.work / "baseline"
    out = arguments.work / f"budget{budget.removesuffix('%')}-degree{degree}"
    overrides = [f"data.dir={arguments.data_dir}", f"search.budget='{budget}'", f"search.degree={degree}"]
    if (baseline / "teacher.safetensors").exists():
        overrides.append(f"baseline.checkpoint={baseline}")
    if result_file(out) is None:
        recipe = Path(__file__).with_suffix(".toml")
        train(parse_config(recipe.read_text(), recipe.name, overrides), out, resume=out.exists(), console=Console())
    if not (baseline / "teacher.safetensors").exists():  # the first run trained it; the others share it
        baseline.mkdir(parents=True)
        for name in ("teacher.safetensors", "metrics.csv"):
            (baseline / name).write_bytes((out / name).read_bytes())
    return out


def measure(run: Path, budget: str, degree: int, data_dir: str) -> dict[str, Any]:
    from aurep.exporters import export_run
    from aurep.validators import validate

    bundle = run.with_name(run.name + "-bundle")
    export_run(run, bundle)
    report = json.loads(validate(bundle, run=run, data="cifar10", data_dir=data_dir).to_json())
    if not report["passed"]:
        raise SystemExit(f"{bundle} failed: {[check for check in report['checks'] if not check['passed']]}")
    result = read_result(run)
    onnx_accuracy = next(check["measured"] for check in report["checks"] if check["name"] == "accuracy")
    return {
        "budget": budget,
        "degree": degree,
        "relu_budget": result.relu_budget,
        "relu_count": report["relu_count"],
        "relu_total": result.relu_total,
        **{key: value for key, value in result.training.model_dump().items() if key.endswith("accuracy")},
        "onnx_test_accuracy": onnx_accuracy,
        "seconds": training_seconds(run, ("search", "finetune")),
    }


def training_seconds(run: Path, phases: tuple[str, ...]) -> float:
    return sum(float(row["seconds"]) for row in epochs_of(run) if row["phase"] in phases)


def report(rows: list[dict[str, Any]], teacher_seconds: float) -> None:
    facts = {
        **provenance(),
        "recipe": Path(__file__).with_suffix(".toml").read_text(),
        "teacher_seconds": teacher_seconds,
        "rows": rows,
    }
    (RESULTS / "cifar10_degrees.json").write_text(json.dumps(facts, indent=2) + "\n")
    table = markdown_table(
        ("ReLUs kept", "share", "degree", "teacher test %", "val %", "test %", "ONNX test %", "search + finetune s"),
        [
            (
                f"{row['relu_count']:,}",
                row["budget"],
                row["degree"],
                f"{row['teacher_test_accuracy']:.2f}",
                f"{row['val_accuracy']:.2f}",
                f"{row['test_accuracy']:.2f}",
                f"{row['onnx_test_accuracy']:.2f}",
                f"{row['seconds']:.0f}",
            )
            for row in rows
        ],
    )
    head = "# CIFAR-10, ResNet-9 of width 8 (30,720 ReLUs): degrees 2, 1, 0 at four budgets\n\n"
    text = head + f"{facts['hardware']}, {facts['versions']}, {facts['date']}. One seed.\n"
    text += (
        f"The teacher trained {teacher_seconds:.0f} s; seconds below are of search and finetuning, one core each on a "
    )
    text += "busy machine.\nCommand: `python benchmarks/cifar10_degrees.py --data-dir DIR`.\n\n" + table
    (RESULTS / "cifar10_degrees.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
