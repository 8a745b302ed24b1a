"""Reading the accuracy in `aurep validate`, against a bare loop over ONNX Runtime on the same images.

    OMP_NUM_THREADS=1 python benchmarks/accuracy_speed.py [--rounds 7] [--images 512]

ResNet-18 and ResNet-20 (CIFAR forms, random weights) at 32 x 32, batches of 64. The bare loop runs batches that are
float32 inputs already. Validation starts from uint8 pixels, normalises the next batch while the last one runs, compares
with labels and tells its progress. Both in turn, round after round; the ratio is taken within each round, its median is
given. Writes benchmarks/results/accuracy_speed.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from provenance import RESULTS, markdown_table, provenance

import aurep
from aurep.metadata import InputClaim
from aurep.models import build_model
from aurep.validators.checks.accuracy import classified_right, normalised
from aurep.validators.session import BATCH, Session
from aurep.validators.stages import say

NETWORKS = ("resnet18", "resnet20")
CLAIM = InputClaim(layout="NCHW", shape=(3, 32, 32), mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=512)
    arguments = parser.parse_args()
    rows = [measured(name, arguments.images, arguments.rounds) for name in NETWORKS]
    report(rows, arguments)


def measured(name: str, images: int, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    data = SimpleNamespace(
        x_test=rng.integers(0, 256, (images, 3, 32, 32)).astype(np.uint8), y_test=rng.integers(0, 10, images)
    )
    inputs = normalised(data.x_test, CLAIM)
    session = Session(network(name), "cpu")
    bare = onnxruntime.InferenceSession(network(name).SerializeToString(), providers=["CPUExecutionProvider"])
    seconds: dict[str, list[float]] = {"bare": [], "validation": []}
    for number in range(rounds + 1):
        tick = time.perf_counter()
        for start in range(0, images, BATCH):
            bare.run(None, {"input": inputs[start : start + BATCH]})
        middle = time.perf_counter()
        classified_right(session, data, CLAIM, lambda done, of: say(f"{done} of {of}"))
        if number:  # the first round warms up
            seconds["bare"].append(middle - tick)
            seconds["validation"].append(time.perf_counter() - middle)
    ratios = [a / b for a, b in zip(seconds["bare"], seconds["validation"], strict=True)]
    rates = {kind: images / statistics.median(values) for kind, values in seconds.items()}
    return {"network": name, "images_per_second": rates, "ratio": statistics.median(ratios), "ratios": sorted(ratios)}


def network(name: str) -> onnx.ModelProto:
    torch.manual_seed(0)
    images = torch.randn(1, 3, 32, 32)
    hybrid = aurep.prepare(build_model(name, num_classes=10).eval(), images)
    with tempfile.TemporaryDirectory() as folder:
        return onnx.load(aurep.export(hybrid, images, Path(folder) / "model.onnx"))


def report(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    facts = {**provenance(), "onnxruntime": onnxruntime.__version__, **vars(arguments), "rows": rows}
    (RESULTS / "accuracy_speed.json").write_text(json.dumps(facts, indent=2) + "\n")
    lines = [
        (
            row["network"],
            *(f"{row['images_per_second'][kind]:.0f}" for kind in ("bare", "validation")),
            f"{row['ratio']:.2f}",
            f"{row['ratios'][0]:.2f} to {row['ratios'][-1]:.2f}",
        )
        for row in rows
    ]
    text = "# Reading the accuracy in `aurep validate`, against a bare loop over ONNX Runtime\n\n"
    text += f"{facts['hardware']}, {facts['versions']}, onnxruntime {facts['onnxruntime']}, {facts['date']}.\n"
    text += f"{arguments.images} images, batches of {BATCH}, {arguments.rounds} rounds in turn; the machine was "
    text += "shared, so read the ratios.\n`python benchmarks/accuracy_speed.py`.\n\n"
    head = ("network", "bare loop, images/s", "validation, images/s", "validation / bare, median", "over the rounds")
    text += markdown_table(head, lines)
    (RESULTS / "accuracy_speed.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
