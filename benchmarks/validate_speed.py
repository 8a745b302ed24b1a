"""How long `aurep validate` takes: graphs of 49,000 nodes, and what its process of its own costs an honest ResNet-18.

    OMP_NUM_THREADS=1 python benchmarks/validate_speed.py [--rounds 5]

The graphs are chains on 4 x 8 x 8 images, each constant a tensor of its own: additions, and convolutions with ReLUs.
ResNet-18 (CIFAR form, full width, random weights) is validated with a budget, in a process of its own as the command
does it and in the calling one, each time by a Python started for it, in turn; medians. CPU time is of all processes.
Writes benchmarks/results/validate_speed.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from provenance import RESULTS, markdown_table, provenance

NODES = 49_000
CHAINS = {"Add": ("Add",), "Conv, Relu": ("Conv", "Relu")}
SHAPE = (4, 8, 8)
PROGRAM = "import sys; from aurep.validators.{} import validate; validate(sys.argv[1], budget=10**9)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name, kinds in CHAINS.items():
            file = chain(kinds, Path(folder) / "chain.onnx")
            rows.append({"graph": f"{NODES:,} nodes: {name}", **timed("entry", file)})
        file = resnet(Path(folder) / "resnet18.onnx")
        rounds = [{home: timed(home, file) for home in ("entry", "validation")} for _ in range(arguments.rounds)]
    for home, name in (("entry", "process of its own"), ("validation", "calling process")):
        middle = {key: statistics.median(r[home][key] for r in rounds) for key in ("seconds", "cpu_seconds")}
        rows.append({"graph": f"ResNet-18, {name}", **middle})
    more = statistics.median(r["entry"]["seconds"] - r["validation"]["seconds"] for r in rounds)
    report(rows, more, arguments.rounds)


def chain(kinds: Sequence[str], path: Path) -> Path:
    """NODES nodes of `kinds` in turn, the last two a head. Weights near the identity keep values near the images'."""
    rng, channels = np.random.default_rng(0), SHAPE[0]
    graph = onnx.GraphProto(name="chain")
    for index in range(NODES - 2):
        kind, inputs = kinds[index % len(kinds)], [f"t{index}"]
        if kind != "Relu":
            near = np.eye(channels)[..., None, None] if kind == "Conv" else np.zeros((channels, 1, 1))
            constant = (near + 1e-4 * rng.normal(size=near.shape)).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(constant, f"c{index}"))
            inputs.append(f"c{index}")
        graph.node.append(helper.make_node(kind, inputs, [f"t{index + 1}"], name=f"layer{index}.{kind}"))
    graph.node.append(helper.make_node("GlobalAveragePool", [f"t{NODES - 2}"], ["pooled"], name="pool"))
    graph.node.append(helper.make_node("Flatten", ["pooled"], ["logits"], name="flatten"))
    graph.input.append(helper.make_tensor_value_info("t0", TensorProto.FLOAT, ["N", *SHAPE]))
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", channels]))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def resnet(path: Path) -> Path:
    import aurep
    from aurep.models import build_model

    torch.manual_seed(0)
    images = torch.randn(1, 3, 32, 32)
    model = aurep.prepare(build_model("resnet18", num_classes=10).eval(), images)
    return Path(aurep.export(model, images, path))


def timed(home: str, file: Path) -> dict[str, float]:
    """Wall and CPU seconds of a Python that validates `file` by `aurep.validators.<home>`."""
    tick = time.perf_counter()
    started = subprocess.Popen([sys.executable, "-c", PROGRAM.format(home), str(file)])
    _, status, used = os.wait4(started.pid, 0)
    started.returncode = os.waitstatus_to_exitcode(status)
    assert started.returncode == 0, f"validating {file} failed"
    return {"seconds": time.perf_counter() - tick, "cpu_seconds": used.ru_utime + used.ru_stime}


def report(rows: list[dict[str, Any]], more: float, rounds: int) -> None:
    load = os.getloadavg()[0]
    facts = {**provenance(), "load": load, "rounds": rounds, "rows": rows, "more_seconds": more}
    (RESULTS / "validate_speed.json").write_text(json.dumps(facts, indent=2) + "\n")
    lines = [(row["graph"], f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}") for row in rows]
    text = "# How long `aurep validate` takes\n\n"
    text += f"{facts['hardware']}, {facts['versions']}, {facts['date']}; the machine was shared, its load was\n"
    text += (
        f"{load:.1f} at the end. ResNet-18: medians of {rounds} rounds in turn. Start of Python and imports count.\n"
    )
    text += "`python benchmarks/validate_speed.py`.\n\n"
    text += markdown_table(("graph", "seconds", "CPU seconds"), lines)
    text += f"\nThe process of its own takes ResNet-18 {more:+.2f} s (median of the differences of a round).\n"
    (RESULTS / "validate_speed.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
