"""What two CPU cores reach on CIFAR-10 in about 20 minutes at 5 % of the ReLUs, epoch by epoch.

    OMP_NUM_THREADS=2 python benchmarks/cpu_20_minutes.py --data-dir DIR [--work runs/cpu-20-minutes]

The recipe `cifar10-resnet9-narrow` from first weights to the finished hybrid network. One seed. Seconds are the
training loop's own, validation apart. Writes benchmarks/results/cpu_20_minutes.{json,md}.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from provenance import RESULTS, epochs_of, markdown_table, provenance
from rich.console import Console

RECIPE = "cifar10-resnet9-narrow"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/cpu-20-minutes"))
    arguments = parser.parse_args()
    report(run(arguments.work, [f"data.dir={arguments.data_dir}"]))


def run(out: Path, overrides: list[str]) -> dict[str, Any]:
    from aurep.training import train
    from aurep.training.config import parse_config, read_recipe

    config = parse_config(read_recipe(RECIPE), RECIPE, overrides)
    result = train(config, out, resume=out.exists(), console=Console())
    counts = result.model_dump(include={"relu_count", "relu_total"})
    return {**counts, **result.training.model_dump(), "epochs": epochs_of(out)}


def report(found: dict[str, Any]) -> None:
    import torch

    from aurep.training.config import read_recipe

    facts = {**provenance(), "threads": torch.get_num_threads(), "recipe": read_recipe(RECIPE), "run": found}
    (RESULTS / "cpu_20_minutes.json").write_text(json.dumps(facts, indent=2) + "\n")
    (RESULTS / "cpu_20_minutes.md").write_text(page(facts))
    print(page(facts))


def page(facts: dict[str, Any]) -> str:
    found = facts["run"]
    baseline = sum(float(e["seconds"]) for e in found["epochs"] if e["phase"] == "baseline")
    text = f"# CIFAR-10 on two CPU cores: ResNet-9 of width 16, {found['relu_count']:,} of "
    text += f"{found['relu_total']:,} ReLUs\n\n"
    text += f"{facts['hardware']}, {facts['versions']}, {facts['date']}. One seed.\n"
    text += "Command: `OMP_NUM_THREADS=2 python benchmarks/cpu_20_minutes.py --data-dir DIR`.\n\n"
    keys = ("teacher_test_accuracy", "val_accuracy", "test_accuracy")
    text += markdown_table(("teacher test %", "val %", "test %"), [[f"{found[key]:.2f}" for key in keys]])
    text += f"\nThe teacher takes {baseline:.0f} s. Validation accuracy epoch by epoch:\n\n"
    rows = [(o[0], f"{o[3]:.0f}", f"{o[2]:.2f}", f"{o[1]:,}") for o in timeline(found, baseline)]
    return text + markdown_table(("phase", "seconds since the start", "val %", "ReLUs"), rows)


def timeline(found: dict[str, Any], seconds: float) -> list[tuple[str, int, float, float]]:
    """Phase, ReLUs kept, validation accuracy and seconds since the first step, after every epoch of the student."""
    lines = []
    for epoch in found["epochs"]:
        if epoch["phase"] != "baseline":
            seconds += float(epoch["seconds"])
            lines.append((epoch["phase"], int(epoch["relu_count"]), float(epoch["val_accuracy"]), seconds))
    return lines


if __name__ == "__main__":
    main()
