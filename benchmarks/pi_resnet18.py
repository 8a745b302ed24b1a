"""Bytes of private inference with ResNet-18 (CIFAR form, full width, 557,056 activations) over the ReLUs it keeps.

    aurep handoff --setup crypten; aurep handoff --setup spu
    python benchmarks/pi_resnet18.py [--crypten PYTHON] [--spu PYTHON] [--work runs/pi]

Weights are random and so are the masks, at exactly the given counts: traffic depends on neither. Polynomials are
fitted, so that values stay in the range of the fixed point. One image per cell. Cells lie in --work as JSON: finished
ones are skipped. Writes benchmarks/results/pi_resnet18.{json,md,svg}.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pi_plot import plot
from provenance import RESULTS, markdown_table, provenance
from random_masks import keep_at_random

TOTAL = 557_056
KEPT = (0, 12_900, 55_706, 557_056)
FRAMEWORKS = ("crypten", "spu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crypten", type=Path)
    parser.add_argument("--spu", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/pi"))
    parser.add_argument("--timeout", type=float, default=3600)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for framework, form, kept in cells():
        file = arguments.work / f"{framework}-{form}-{kept}.json"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            found = measure(framework, form, kept, arguments)
            file.write_text(json.dumps(found, indent=1))
            print(file, found["measured"]["traffic"], found["measured"]["logits"], flush=True)
        rows.append(json.loads(file.read_text()))
        rows[-1]["predicted_bytes"] = predict(arguments.work / file.stem, rows[-1]["measured"]["protocol"])
    report(rows)


def cells() -> Iterator[tuple[str, str, int]]:
    for kept in KEPT:
        for framework in FRAMEWORKS:
            yield framework, "gather", kept
    for framework in FRAMEWORKS:
        yield framework, "mask", 55_706


def measure(framework: str, form: str, kept: int, arguments: argparse.Namespace) -> dict[str, Any]:
    from aurep.handoff import handoff

    bundle = export_cell(framework, form, kept, arguments.work)
    python = getattr(arguments, framework)
    found = handoff(bundle, framework, samples=1, python=python, timeout=arguments.timeout).to_dict()
    return {
        "framework": framework,
        "form": form,
        "kept": kept,
        "measured": {key: found[key] for key in ("protocol", "packages", "logits", "traffic", "seconds", "derived")},
    }


def predict(bundle: Path, protocol: str) -> int:
    """Bytes as `aurep inspect` estimates them from the graph alone."""
    from aurep.validators.inspection import inspect

    return next(int(entry["bytes"]) for entry in inspect(bundle).estimates if entry["protocol"] == protocol)


def export_cell(framework: str, form: str, kept: int, work: Path) -> Path:
    """The network as a bundle for `framework`, its sites in `form`."""
    from aurep import fit_polynomials, prepare
    from aurep.exporters import TARGETS, export
    from aurep.models import build_model

    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    model = prepare(build_model("resnet18", num_classes=10, stem_relu=True).eval(), images[:1])
    keep_at_random(model, kept, TOTAL)
    for _ in range(3):  # the fit of a layer changes what later ones see
        fit_polynomials(model, [images])
    TARGETS[framework] = replace(TARGETS[framework], form=form)
    folder = work / f"{framework}-{form}-{kept}"
    export(model, images[:1], folder, framework, samples=(images[:1].numpy(), np.zeros(1, dtype=np.int64)))
    return folder


def report(rows: list[dict[str, Any]]) -> None:
    facts = {**provenance(), "model": "resnet18 with stem ReLU, random weights and masks", "total": TOTAL, "rows": rows}
    full = {row["framework"]: activations(row) for row in rows if row["kept"] == TOTAL}
    facts["saving"] = {
        f"{row['framework']} {row['form']} {row['kept']}": full[row["framework"]] / activations(row) for row in rows
    }
    (RESULTS / "pi_resnet18.json").write_text(json.dumps(facts, indent=2) + "\n")
    (RESULTS / "pi_resnet18.svg").write_text(plot(rows, TOTAL))
    text = "# ResNet-18 (CIFAR, full width): bytes of one private inference over the ReLUs kept\n\n"
    packages = "; ".join(sorted({", ".join(row["measured"]["packages"]) for row in rows}))
    text += (
        f"{facts['hardware']}, {facts['versions']}; {packages}; {facts['date']}. Random weights and masks, one image.\n"
    )
    text += (
        "Bytes on the wire, both parties together, without the triples of the trusted first party. Seconds are over\n"
    )
    text += "loopback on a busy machine: indicative only. `python benchmarks/pi_resnet18.py`.\n\n"
    text += table(rows, full) + "\n![bytes over ReLUs kept](pi_resnet18.svg)\n"
    (RESULTS / "pi_resnet18.md").write_text(text)
    print(text)


def activations(row: dict[str, Any]) -> int:
    return int(row["measured"]["traffic"]["activations_total"])


def table(rows: list[dict[str, Any]], full: dict[str, int]) -> str:
    head = ("framework", "form", "ReLUs kept", "share", "total MB", "weight opening MB", "activation MB")
    head += ("all-ReLU / this", "rounds", "predicted MB", "off by", "logits error", "seconds")
    lines = []
    for row in sorted(rows, key=lambda row: (row["framework"], row["form"], -row["kept"])):
        traffic = row["measured"]["traffic"]
        lines.append(
            (
                f"{row['framework']} {row['measured']['protocol']}",
                row["form"],
                f"{row['kept']:,}",
                f"{row['kept'] / TOTAL:.1%}",
                f"{traffic['total'] / 1e6:.1f}",
                f"{traffic['weight_opening_total'] / 1e6:.1f}",
                f"{traffic['activations_total'] / 1e6:.1f}",
                f"{full[row['framework']] / activations(row):.2f}x",
                traffic["rounds"],
                f"{row['predicted_bytes'] / 1e6:.1f}",
                f"{row['predicted_bytes'] / traffic['total'] - 1:+.2%}",
                f"{row['measured']['logits']['max_error']:.1e}",
                f"{row['measured']['seconds']:.0f}",
            )
        )
    return markdown_table(head, lines)


if __name__ == "__main__":
    main()
