"""bf16 against fp32: are the accuracies the same within their spread over seeds?

    python benchmarks/precision.py --data-dir DIR [--work runs/precision]

A narrow ResNet-20 on few CIFAR-10 images, a matter of minutes: per seed and precision a teacher and a student within
5 % of its ReLUs, everything else as by default, with the C++ kernels, fused, in both. Tested on CIFAR-10 test images.
Finished runs are read and stopped ones go on. Writes benchmarks/results/precision.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

from provenance import RESULTS, markdown_table, provenance
from rich.console import Console
from subsets import first_images

SEEDS = (0, 1, 2)
PRECISIONS = ("fp32", "bf16")
TEST_IMAGES = 5_000
EPOCHS = {"baseline": 6, "search": 3, "finetune": 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/precision"))
    parser.add_argument("--images", type=int, default=4_000, help="to train on, a tenth of them to validate")
    parser.add_argument("--width", type=int, default=8)
    arguments = parser.parse_args()
    file = arguments.work / f"images-{arguments.images}.npz"
    data = first_images(arguments.data_dir, file, arguments.images, test=TEST_IMAGES)
    results = {(p, seed): run(arguments, data, p, seed) for seed in SEEDS for p in PRECISIONS}
    report(arguments, results)


def run(arguments: argparse.Namespace, data: Path, precision: str, seed: int) -> dict[str, float]:
    """Test accuracies in percent."""
    from aurep.training import train

    config: dict[str, Any] = {
        "model": {"name": "resnet20", "width": arguments.width},
        "data": {"name": f"npz:{data}"},
        "train": {"precision": precision, "seed": seed, "kernels": "compiled", "fuse": True},
        **{phase: {"epochs": epochs} for phase, epochs in EPOCHS.items()},
    }
    config["search"]["budget"] = "5%"
    folder = arguments.work / f"{precision}-s{seed}"
    result = train(config, folder, resume=folder.exists(), console=Console())
    return {"teacher": result.teacher_test_accuracy, "student": result.test_accuracy}


def report(arguments: argparse.Namespace, results: dict[tuple[str, int], dict[str, float]]) -> None:
    rows = []
    for network in ("teacher", "student"):
        found = {p: [results[p, seed][network] for seed in SEEDS] for p in PRECISIONS}
        differences = [b - f for f, b in zip(found["fp32"], found["bf16"], strict=True)]
        rows.append(
            {
                "network": network,
                **{
                    p: {"values": v, "mean": statistics.mean(v), "spread": statistics.stdev(v)}
                    for p, v in found.items()
                },
                "difference": statistics.mean(differences),
            }
        )
    settings = {"images": arguments.images, "width": arguments.width, "epochs": EPOCHS, "seeds": SEEDS}
    facts = {**provenance(), "settings": settings, "load": os.getloadavg()[2], "rows": rows}
    (RESULTS / "precision.json").write_text(json.dumps(facts, indent=2) + "\n")
    text = "# bf16 against fp32, test accuracy\n\n"
    text += (
        f"ResNet-20 of width {arguments.width}, {arguments.images:,} CIFAR-10 training images, {TEST_IMAGES:,} test "
    )
    text += (
        f"images, epochs {', '.join(f'{count} of {phase}' for phase, count in EPOCHS.items())}; student within 5 % of "
    )
    text += f"its ReLUs; seeds {', '.join(map(str, SEEDS))}. "
    text += f"{facts['hardware']}, {facts['versions']}, {facts['date']}.\n\n"
    cells = [
        (
            row["network"],
            *(
                f"{row[p]['mean']:.2f} ± {row[p]['spread']:.2f} ({', '.join(f'{v:.2f}' for v in row[p]['values'])})"
                for p in PRECISIONS
            ),
            f"{row['difference']:+.2f}",
        )
        for row in rows
    ]
    text += markdown_table(("network", *(f"{p} % ± spread (seeds)" for p in PRECISIONS), "bf16 - fp32"), cells)
    (RESULTS / "precision.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
