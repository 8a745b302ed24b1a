"""CIFAR-10 on a small ResNet-9: what each search method is worth, and what matters in training polynomials.

    python benchmarks/methods_cifar10.py --data-dir DIR [--work runs/methods] [STUDY ...]

Studies over one folder of runs, three seeds each, one teacher per seed, around the recipe methods_cifar10.toml:
`coefficients` varies one thing at a time at 5 % of the ReLUs, `methods` puts every method at three budgets as its paper
has it, `degree2` the others with the same polynomials, `selection` asks at which degree and budget it matters which
elements stay, `saliency` varies that method at degree 1, where it does, and `norms` takes finished networks and
estimates their batch norms' statistics anew. Start it several times to share the work; finished runs are skipped.
Writes benchmarks/results/methods_cifar10_*.{json,md,svg}.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from provenance import RESULTS, markdown_table, provenance
from rich.console import Console

from aurep.results import ComparisonRow

SEEDS = (0, 1, 2)
BUDGETS = ("20%", "5%", "2%")
BASE = {
    "coefficients": "autorep",
    "methods": "AutoReP as published",
    "degree2": "saliency",
    "selection": "random, degree 0",
    "saliency": "saliency, degree 1",
}


def both(*keys: str) -> list[str]:
    """The same keys for search and finetune."""
    return [f"{phase}.{key}" for phase in ("search", "finetune") for key in keys]


# As the released code of AutoReP trains: its first coefficients, one Adam rate for all, random indicators, penalty.
PUBLISHED = [
    "search.method=autorep",
    "search.fit=autorep",
    "search.options.schedule=penalty",
    "search.options.initial=uniform",
    "search.options.alpha_lr=1e-3",
    *both("lr=1e-3", "coefficient_lr=1e-3"),
]
# What the study of coefficients chose on the validation split.
TUNED = both("lr=3e-3", "coefficient_lr=1e-3")
COEFFICIENTS = {
    "autorep": [],
    "coefficient rate 1e-5": both("coefficient_lr=1e-5"),
    "coefficient rate 1e-3": both("coefficient_lr=1e-3"),
    "weight rate 3e-3": both("lr=3e-3"),
    "per-element coefficients": ["search.coefficients=element"],
    "PRAM, weight 1000": both("pram_weight=1000"),
    "range penalty 5e-5": both("range_weight=5e-5"),
    "range penalty 5e-5, gradients clipped to 1": both("range_weight=5e-5", "clip_norm=1"),
    "4 refits while searching": ["search.refits=4"],
    "normal closed form": ["search.fit=normal"],
    "AutoReP's first coefficients": ["search.fit=autorep"],
    "penalty instead of schedule": ["search.options.schedule=penalty"],
    "indicators from saliency": ["search.options.initial=saliency"],
    "hysteresis 0.03": ["search.options.hysteresis=0.03"],
    "finetune twice as long": ["finetune.epochs=4"],
    "AutoReP as published": PUBLISHED,
    "SGD at 0.02 on weights and coefficients": both("optimizer=sgd", "lr=0.02", "coefficient_lr=0.02"),
    "SGD at 0.02, coefficients 1e-4": both("optimizer=sgd", "lr=0.02"),
    "both faster, 4 refits, indicators from saliency": [*TUNED, "search.refits=4", "search.options.initial=saliency"],
    "the same with per-element coefficients": [
        *TUNED,
        "search.refits=4",
        "search.options.initial=saliency",
        "search.coefficients=element",
    ],
}

# As it was when the studies ran; that of its options then chose to average over more steps.
_SALIENCY = ["search.method=saliency", "search.options.decay=0.9"]
METHODS: dict[str, list[str]] = {
    "AutoReP as published": PUBLISHED,
    "AutoReP, indicators from saliency": [*TUNED, "search.method=autorep", "search.options.initial=saliency"],
    "saliency": [*TUNED, *_SALIENCY],
    "SNL, degree 0": [*TUNED, "search.method=snl"],
    "SENet, degree 0": [*TUNED, "search.method=senet", "finetune.pram_weight=1000"],
    "random": [*TUNED, "search.method=random"],
}
EQUAL_TERMS: dict[str, list[str]] = {
    "saliency": METHODS["saliency"],
    "SNL, degree 2": [*TUNED, "search.method=snl", "search.degree=2"],
    "SENet, degree 2": [*TUNED, "search.method=senet", "search.degree=2", "finetune.pram_weight=1000"],
    "uniform": [*TUNED, "search.method=uniform"],
    "layerwise": [*TUNED, "search.method=layerwise"],
}
SELECTION = {
    f"{method}, degree {degree}": [*TUNED, *keys, f"search.degree={degree}"]
    for degree in (0, 1)
    for method, keys in (("random", ["search.method=random"]), ("saliency", _SALIENCY))
}
_STRAIGHT = [*TUNED, *_SALIENCY, "search.degree=1"]
SALIENCY = {
    "saliency, degree 1": _STRAIGHT,
    "scores over 100 steps": [*_STRAIGHT, "search.options.decay=0.99"],
    "nothing restored": [*_STRAIGHT, "search.options.restore=false"],
}
NONE_KEPT = "no ReLU, degree 2"
STUDIES = {
    "coefficients": (COEFFICIENTS, ("5%",)),
    "methods": (METHODS, BUDGETS),
    "degree2": (EQUAL_TERMS, BUDGETS),
    "selection": (SELECTION, ("20%", "5%")),
    "saliency": (SALIENCY, ("20%", "5%")),
}
NORMS = ("autorep", "saliency", NONE_KEPT)  # the runs whose batch norms are estimated anew, at 5 % or none


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "studies", nargs="*", default=[*STUDIES, "norms"], metavar="STUDY", help=", ".join([*STUDIES, "norms"])
    )
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/methods"))
    arguments = parser.parse_args()
    for study in arguments.studies:
        if study == "norms":
            report_norms([norms_anew(arguments, name, seed) for name in NORMS for seed in SEEDS])
            continue
        variants, budgets = STUDIES[study]
        rows = run(arguments, variants, budgets) + run(arguments, {NONE_KEPT: TUNED}, ("0",))
        there = {(row.method, row.budget) for row in rows}
        report(study, rows, [f"{v} at {b}" for b in budgets for v in variants if (v, b) not in there])


def run(arguments: argparse.Namespace, variants: dict[str, list[str]], budgets: tuple[str, ...]) -> list[ComparisonRow]:
    from aurep.training.compare import compare
    from aurep.training.config import parse_config

    recipe = Path(__file__).with_suffix(".toml")
    config = parse_config(recipe.read_text(), recipe.name, [f"data.dir={arguments.data_dir}"])
    return compare(config, arguments.work, list(variants), budgets, SEEDS, Console(), variants)


def norms_anew(arguments: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Validation accuracy of a finished run, and again when its batch norms have seen all training images once."""
    from torch.optim.swa_utils import update_bn

    from aurep.data.loader import DeviceLoader
    from aurep.training import load_run
    from aurep.training.compare import Cell
    from aurep.training.engine import evaluate
    from aurep.training.setup import read_data

    run = load_run(Cell(name, "0" if name == NONE_KEPT else "5%", seed).folder(arguments.work))
    data = read_data(run.config)
    train, val = (DeviceLoader.for_split(data, s, batch_size=500, train=False) for s in ("train", "val"))
    before = evaluate(run.model, val)
    update_bn(train.epoch(0), run.model)
    return {"method": name, "seed": seed, "before": before, "after": evaluate(run.model, val)}


def report_norms(rows: list[dict[str, Any]]) -> None:
    facts = {**provenance(), "rows": rows}
    (RESULTS / "methods_cifar10_norms.json").write_text(json.dumps(facts, indent=2) + "\n")
    text = "# CIFAR-10: batch norm statistics estimated anew after training\n\n"
    text += f"{facts['hardware']}, {facts['versions']}, {facts['date']}. Runs of the other studies, in eval mode over "
    text += "the training images.\nCommand: `python benchmarks/methods_cifar10.py --data-dir DIR norms`.\n\n"
    lines = [(r["method"], r["seed"], f"{r['before']:.2f}", f"{r['after']:.2f}") for r in rows]
    text += markdown_table(("run", "seed", "val %, running statistics", "val %, estimated anew"), lines)
    (RESULTS / "methods_cifar10_norms.md").write_text(text)
    print(text)


def report(study: str, rows: list[ComparisonRow], lost: list[str]) -> None:
    from aurep.training.plots import draw_comparison, svg

    facts = {**provenance(), "recipe": Path(__file__).with_suffix(".toml").read_text(), "seeds": SEEDS}
    facts |= {"rows": [asdict(row) for row in rows], "diverged_on_every_seed": lost}
    (RESULTS / f"methods_cifar10_{study}.json").write_text(json.dumps(facts, indent=2) + "\n")
    head = f"# CIFAR-10, ResNet-9 of width 4 ({rows[0].relu_total:,} ReLUs): {study}\n\n"
    head += f"{facts['hardware']}, {facts['versions']}, {facts['date']}. Mean and sample deviation over seeds "
    head += f"{', '.join(map(str, SEEDS))}; the teachers reach {rows[0].teacher_mean:.2f} % on test.\n"
    head += f"Command: `python benchmarks/methods_cifar10.py --data-dir DIR {study}`.\n\n"
    if study != "coefficients":
        (RESULTS / f"methods_cifar10_{study}.svg").write_text(svg(lambda axes: draw_comparison(axes, rows), 4.5))
        head += f"![accuracy over ReLUs kept](methods_cifar10_{study}.svg)\n\n"
    columns = ("ReLUs kept", "method", "degree", "val %", "test %", f"against {BASE[study]}, test")
    text = head + markdown_table(columns, [line(row, rows, BASE[study]) for row in sorted(rows, key=order)])
    text += f"\nLoss not finite on any seed: {', '.join(lost)}.\n" if lost else ""
    (RESULTS / f"methods_cifar10_{study}.md").write_text(text)
    print(text)


def order(row: ComparisonRow) -> tuple[float, ...]:
    return -row.relu_count, -statistics.mean(row.val_accuracy)


def line(row: ComparisonRow, rows: list[ComparisonRow], name: str) -> tuple[Any, ...]:
    base = next((r for r in rows if r.method == name and r.budget == row.budget), None)
    gain = "-"
    if base is not None and base is not row:  # seed by seed, since a seed's runs share their teacher
        theirs = dict(zip(base.seeds, base.test_accuracy, strict=True))
        pairs = zip(row.seeds, row.test_accuracy, strict=True)
        gain = with_spread([accuracy - theirs[seed] for seed, accuracy in pairs if seed in theirs], "+")
    lost = f" (no finite loss on seed {', '.join(map(str, row.diverged))})" if row.diverged else ""
    accuracies = (with_spread(row.val_accuracy), with_spread(row.test_accuracy))
    return f"{row.relu_count:,}", row.method + lost, row.degree, *accuracies, gain


def with_spread(values: Sequence[float], sign: str = "") -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.2f}{spread}"


if __name__ == "__main__":
    main()
