"""How well the range certificate foretells what a real run does to the logits.

    aurep handoff --setup crypten; aurep handoff --setup spu
    python benchmarks/range_certificate.py [--work runs/range-certificate] [--samples 8]

ResNet-9 and ResNet-20 of small widths are trained on scikit-learn's digits within 10 % of their ReLUs, exported with a
certificate and run by two real parties. A third network is that ResNet-9 with its last batch norm scaled until squares
leave the ring: there both errors are what wrapping around makes of logits. Writes
benchmarks/results/range_certificate.{json,md}.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from provenance import RESULTS, markdown_table, provenance
from torch import nn

NETWORKS = {"resnet9": 8, "resnet20": 8}  # name -> width
FRAMEWORKS = ("crypten", "spu")
OVERFLOW = 2e4  # factor of the last batch norm: squares reach 2^32, CrypTen multiplies up to 2^31, SPU up to 2^27


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/range-certificate"))
    parser.add_argument("--samples", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in NETWORKS:
        run = trained(name, arguments.work / name)
        rows += [measure(run, name, to, 1.0, arguments) for to in FRAMEWORKS]
    run = trained("resnet9", arguments.work / "resnet9")
    rows += [measure(run, "resnet9, overflowing", to, OVERFLOW, arguments) for to in FRAMEWORKS]
    report(rows, arguments.samples)


def trained(name: str, folder: Path) -> Any:
    import aurep

    if not (folder / "run.json").exists():
        config = {
            "model": {"name": name, "width": NETWORKS[name], "input_size": 16},
            "data": {"name": "digits", "flip": False, "pad": 1},
            "train": {"batch_size": 64, "device": "cpu"},
            "baseline": {"epochs": 6, "lr": 0.05},
            "search": {"method": "saliency", "budget": "10%", "degree": 2, "epochs": 2},
            "finetune": {"epochs": 4},
        }
        aurep.train(config, folder)
    return aurep.load_run(folder)


def measure(run: Any, name: str, to: str, factor: float, arguments: argparse.Namespace) -> dict[str, Any]:
    from aurep.exporters import export
    from aurep.exporters.ranges import Calibration
    from aurep.handoff import handoff

    kept = arguments.work / f"{name.replace(', ', '-')}-{to}.json"
    if kept.exists():
        known: dict[str, Any] = json.loads(kept.read_text())
        return known
    bundle = arguments.work / f"{name.replace(', ', '-')}-{to}"
    model = scaled(run.model, factor)
    samples, calibration = run.samples(64), Calibration(*run.calibration(512))
    export(model, run.example_input, bundle, to, origin=run.origin, samples=samples, calibration=calibration)
    warnings: list[str] = []
    found = handoff(bundle, to, samples=arguments.samples, warned=warnings.append)
    bits = json.loads((bundle / "budget.json").read_text())["ranges"]["fraction_bits"]
    assert found.predicted is not None
    row = {
        "network": name,
        "framework": to,
        "packages": found.packages,
        "test_accuracy": run.result.training.test_accuracy,
        "predicted": found.predicted.max_error,
        "measured": found.logits.max_error,
        "factor": found.predicted.max_error / found.logits.max_error,
        "scaled_measured": found.logits.scaled_error,
        "wraps_per_image": found.predicted.wraps_per_image,
        "top1_agreement": found.logits.top1_agreement,
        "fraction_bits": bits,
        "warnings": warnings,
    }
    kept.write_text(json.dumps(row))
    print(kept.read_text(), flush=True)
    return row


def scaled(model: nn.Module, factor: float) -> nn.Module:
    """A copy whose last batch norm is `factor` times what it was."""
    import copy

    made = copy.deepcopy(model)
    norm = [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)][-1]
    with torch.no_grad():
        norm.weight *= factor
        norm.bias *= factor
    return made


def report(rows: list[dict[str, Any]], samples: int) -> None:
    held = sum(0.5 <= row["factor"] <= 2 for row in rows)
    facts = {**provenance(), "samples": samples, "within_a_factor_of_2": held, "rows": rows}
    (RESULTS / "range_certificate.json").write_text(json.dumps(facts, indent=2) + "\n")
    columns = ("network", "framework", "foreseen error", "measured error", "foreseen / measured", "told before the run")
    table = [
        (
            row["network"],
            row["framework"],
            f"{row['predicted']:.2g}",
            f"{row['measured']:.2g}",
            f"{row['factor']:.2f}",
            "; ".join(row["warnings"]) or "nothing",
        )
        for row in rows
    ]
    text = f"""# The error of the logits, foreseen and measured

{held} of {len(rows)} within a factor of 2. Largest absolute error over {samples} samples' logits, in a simulation of
the fixed point before the run and in the run itself, two parties: `python benchmarks/range_certificate.py`.

{markdown_table(columns, table)}
"""
    (RESULTS / "range_certificate.md").write_text(text)


if __name__ == "__main__":
    main()
