"""Which parts keep an all-polynomial network from collapsing: every ReLU of a deep ResNet replaced, one part at a time.

    python benchmarks/stability.py --data-dir DIR [--model resnet20] [--images 8000] [--teacher zoo/cifar10-resnet20]

From one teacher, budget 0, degree 2, elements replaced in random order along the usual schedule: search and finetuning
as they are by default, without one of their parts, and without any (least squares, plain coefficients, no penalty, no
clipping). A run that collapsed or diverged is a result here. What is read from a run is its metrics.csv: accuracy and
training loss after every epoch, and the largest input that any site saw in validation, which says where it blew up.

`--images` takes the first so many training images, for a look in minutes; 2,500 of the last 5,000, which no teacher of
the zoo has seen, validate. The test set is not touched.
Writes benchmarks/results/stability_<model>.{json,md}.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from provenance import RESULTS, epochs_of, markdown_table, provenance
from rich.console import Console
from subsets import SEEN, VAL_IMAGES, first_images

PLAIN = {"fit": "moments", "normalise": False, "range_weight": 0.0, "clip_norm": 0.0}
PHASE = {"fit": "search"}  # of the keys that one alone has
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "polynomials by plain least squares": {"fit": "moments"},
    "polynomials that enlarge nothing": {"fit": "bounded"},
    "five times the range penalty": {"range_weight": 0.05},
    "ten times the range penalty": {"range_weight": 0.1},
    "without the range penalty": {"range_weight": 0.0},
    "without clipping": {"clip_norm": 0.0},
    "without normalised powers": {"normalise": False},
    "none of them": PLAIN,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--images", type=int, default=SEEN)
    parser.add_argument("--epochs", type=int, nargs=3, default=(20, 2, 6), metavar=("BASELINE", "SEARCH", "FINETUNE"))
    parser.add_argument("--teacher", help="a run folder or file to take instead of training one")
    parser.add_argument("--work", type=Path, default=Path("runs/stability"))
    arguments = parser.parse_args()
    file = arguments.work / f"cifar10-{arguments.images}.npz"
    data = first_images(arguments.data_dir, file, arguments.images, val=VAL_IMAGES, val_from=SEEN, test=0)
    baseline, search, finetune = arguments.epochs
    config: dict[str, Any] = {
        "model": {"name": arguments.model},
        "data": {"name": f"npz:{data}"},
        "baseline": {"epochs": baseline, "lr": 0.2},
        "search": {"method": "random", "budget": 0, "degree": 2, "epochs": search},
        "finetune": {"epochs": finetune},
    }
    config["baseline"]["checkpoint"] = arguments.teacher or teacher(config, arguments.work / "teacher")
    runs = {name: run(config, change, arguments.work / slug(name)) for name, change in VARIANTS.items()}
    report(arguments.model, arguments.images, arguments.epochs, runs)


def teacher(config: dict[str, Any], out: Path) -> str:
    from aurep.training.config import check_config
    from aurep.training.runs import train_baseline

    return str(train_baseline(check_config(config), out, Console()))


def run(config: dict[str, Any], change: dict[str, Any], out: Path) -> dict[str, Any]:
    from aurep.errors import Diverged
    from aurep.training import train

    fields = {section: dict(values) for section, values in config.items()}
    for phase in ("search", "finetune"):
        fields[phase] |= {key: value for key, value in change.items() if PHASE.get(key, phase) == phase}
    failure = None
    try:
        train(fields, out, resume=out.exists(), console=Console())
    except Diverged as error:
        failure = str(error)
    return {"failure": failure, "epochs": epochs_of(out)}


def slug(name: str) -> str:
    return name.replace(" ", "-").replace("%", "percent")


def report(model: str, images: int, epochs: tuple[int, int, int], runs: dict[str, dict[str, Any]]) -> None:
    facts = {**provenance(), "model": model, "images": images, "epochs": list(epochs), "runs": runs}
    (RESULTS / f"stability_{model}.json").write_text(json.dumps(facts, indent=2) + "\n")
    lines = []
    for name, found in runs.items():
        rows = [row for row in found["epochs"] if row["phase"] != "baseline"]
        accuracies = " ".join(f"{float(row['val_accuracy']):.1f}" for row in rows)
        losses = " ".join(f"{float(row['train_loss']):.3g}" for row in rows)
        last = rows[-1]
        outcome = "collapsed or diverged" if found["failure"] else "finished"
        widest = f"{float(last['largest_input']):.3g} ({last['largest_input_site']})"
        lines.append((name, accuracies, losses, widest, outcome))
    text = f"# Every ReLU of {model} replaced at degree 2: what keeps it alive\n\n"
    text += (
        f"{facts['hardware']}, {facts['versions']}, {facts['date']}. CIFAR-10, the first {images:,} training images, "
    )
    text += (
        f"{VAL_IMAGES:,} others for validation; {epochs[1]} + {epochs[2]} epochs of search and finetuning. One seed.\n"
    )
    text += f"Command: `python benchmarks/stability.py --data-dir DIR --model {model} --images {images} "
    text += f"--epochs {' '.join(map(str, epochs))} --teacher RUN`.\n\n"
    head = ("variant", "val % by epoch", "training loss by epoch", "largest input, last epoch", "outcome")
    text += markdown_table(head, lines)
    (RESULTS / f"stability_{model}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
