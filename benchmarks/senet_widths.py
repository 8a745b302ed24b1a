"""SENet++: what training half the channels along costs, and what the half is worth against a network of its own.

    python benchmarks/senet_widths.py --data-dir DIR [--images 20000] [--epochs 10 3 6] [--seeds 0] [--work runs/widths]

CIFAR-10, ResNet-9 of width 8, a fifth of its ReLUs, by SENet with its attention loss. Three students: at widths 1 and
1/2 in one, at width 1 alone, and a ResNet-9 of width 4 alone, which is as large as the half and has a teacher of its
own. The first training images train and the 2,500 behind them validate; accuracies are of the test set, read once.
Finished runs are read and stopped ones go on. Writes benchmarks/results/senet_widths.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from provenance import RESULTS, markdown_table, provenance
from rich.console import Console
from subsets import first_images

VAL_IMAGES = 2_500
BOTH, FULL, HALF = "widths 1 and 1/2 in one", "width 1 alone", "half the width alone"
STUDENTS = {BOTH: (8, [0.5, 1.0]), FULL: (8, [1.0]), HALF: (4, [1.0])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/widths"))
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, nargs=3, default=(10, 3, 6), metavar=("BASELINE", "SEARCH", "FINETUNE"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    file = arguments.work / f"images-{arguments.images}.npz"
    data = first_images(arguments.data_dir, file, arguments.images, val=VAL_IMAGES)
    report(arguments, [measure(arguments, data, name, seed) for seed in arguments.seeds for name in STUDENTS])


def measure(arguments: argparse.Namespace, data: Path, name: str, seed: int) -> dict[str, Any]:
    from aurep.training import train
    from aurep.training.config import check_config
    from aurep.training.runs import train_baseline

    width, multipliers = STUDENTS[name]
    baseline, search, finetune = arguments.epochs
    fields: dict[str, Any] = {
        "model": {"name": "resnet9", "width": width},
        "data": {"name": f"npz:{data}"},
        "train": {"seed": seed},
        "baseline": {"epochs": baseline},
        "search": {"method": "senet", "budget": "20%", "epochs": search, "width_multipliers": multipliers},
        "finetune": {"epochs": finetune, "pram_weight": 1000.0},
    }
    teacher = train_baseline(check_config(fields), arguments.work / f"teacher-{width}-seed-{seed}", Console())
    fields["baseline"]["checkpoint"] = str(teacher)
    out = arguments.work / f"width-{width}-of-{len(multipliers)}-seed-{seed}"
    result = train(fields, out, resume=out.exists(), console=Console())
    halves = [(narrow.relu_count, narrow.test_accuracy) for narrow in result.narrower]
    whole = (result.relu_count, result.test_accuracy)
    return {
        "student": name,
        "seed": seed,
        "teacher": result.teacher_test_accuracy,
        "full": whole if width == 8 else None,
        "half": whole if width == 4 else halves[0] if halves else None,
    }


def report(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    facts = {**provenance(), "images": arguments.images, "epochs": list(arguments.epochs), "seeds": arguments.seeds}
    (RESULTS / "senet_widths.json").write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n")
    text = f"""# SENet++: half the channels, trained along

{facts["hardware"]}, {facts["versions"]}, {facts["date"]}. CIFAR-10, ResNet-9 of width 8 and the half of it, a fifth of
the ReLUs; {arguments.images:,} images, {" + ".join(map(str, arguments.epochs))} epochs of baseline, search and
finetuning, seeds {", ".join(map(str, arguments.seeds))}. Test accuracy in percent, and ReLUs kept.
Command: `python benchmarks/senet_widths.py --data-dir DIR --images {arguments.images}`.

"""
    head = ("student", "teacher", "full width", "half width")
    lines = []
    for name in STUDENTS:
        own = [row for row in rows if row["student"] == name]
        cells = [figure([row[key] for row in own]) for key in ("full", "half")]
        lines.append((name, spread([row["teacher"] for row in own]), *cells))
    text += markdown_table(head, lines)
    (RESULTS / "senet_widths.md").write_text(text)
    print(text)


def figure(found: list[tuple[int, float] | None]) -> str:
    whole = [each for each in found if each is not None]
    return f"{spread([accuracy for _, accuracy in whole])} ({whole[0][0]:,})" if whole else "-"


def spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


if __name__ == "__main__":
    main()
