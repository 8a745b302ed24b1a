"""Latency of the `onnxruntime` target on ONNX Runtime's CPU provider, against the plain ReLU network and other forms.

    OMP_NUM_THREADS=1 python benchmarks/ort_latency.py [--rounds 15]

ResNet-18 (CIFAR form, full width), 12,900 of 491,520 ReLUs kept, random weights. All forms are timed in turn, round
after round, so that they share whatever else the machine does; medians, and ratios within the run. One thread. Forms:
plain ReLU; max (the target's); max, constants pushed (with `--push-constants`); mask (multiply and add); where (Where
instead of Max); gather (canonical). Writes benchmarks/results/ort_latency.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper
from provenance import RESULTS, markdown_table, provenance

KEPT = 12_900
BATCHES = (64, 1)
FORMS = {"plain": "onnx", "max": "onnxruntime", "mask": "mask", "gather": "onnx"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = export_forms(Path(folder))
        sizes = {form: file.stat().st_size for form, file in files.items()}
        rows = [row for batch in BATCHES for row in measure(files, sizes, batch, arguments.rounds)]
    report(rows, arguments.rounds)


def export_forms(folder: Path) -> dict[str, Path]:
    from aurep import fit_polynomials, prepare, relu_sites, set_mask
    from aurep.exporters import export
    from aurep.models import build_model

    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    model = prepare(build_model("resnet18", num_classes=10).eval(), images[:1])
    files = {"plain": export(model, images[:1], folder / "plain.onnx", "onnx")}
    fit_polynomials(model, [images])
    sites = relu_sites(model)
    chosen = torch.zeros(sum(site.elements for site in sites))
    chosen[torch.randperm(len(chosen))[:KEPT]] = 1
    for site, part in zip(sites, chosen.split([site.elements for site in sites]), strict=True):
        set_mask(model, site.name, part.reshape(site.shape))
    for form, target in list(FORMS.items())[1:]:
        files[form] = export(model, images[:1], folder / f"{form}.onnx", target)
    pushed = folder / "pushed.onnx"
    files["max, constants pushed"] = export(model, images[:1], pushed, "onnxruntime", push_constants=True)
    files["where"] = where_form(files["mask"], folder / "where.onnx")
    return files


def where_form(mask_file: Path, path: Path) -> Path:
    """y = Where(kept, relu(x), p(x)), made of the mask form: its two products and their sum become one Where."""
    model = onnx.load(mask_file)
    nodes = {node.output[0]: node for node in model.graph.node}
    factors = {}
    for node in list(model.graph.node):
        if node.op_type != "Add" or not all(nodes.get(name, node).name.endswith(ENDS) for name in node.input):
            continue
        relu, poly = (nodes[name] for name in node.input)
        kept = relu.input[1]
        factors[kept] = f"{kept}/bool"
        where = helper.make_node("Where", [factors[kept], relu.input[0], poly.input[0]], list(node.output), node.name)
        node.CopyFrom(where)
        model.graph.node.remove(relu)
        model.graph.node.remove(poly)
    for tensor in list(model.graph.initializer):
        if tensor.name in factors:
            array = onnx.numpy_helper.to_array(tensor) != 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, factors[tensor.name]))
        elif tensor.name.endswith("/replaced"):
            model.graph.initializer.remove(tensor)
    assert factors, "the mask form has no site to rewrite"
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


ENDS = ("/Mul_kept", "/Mul_replaced")


def measure(files: dict[str, Path], sizes: dict[str, int], batch: int, rounds: int) -> list[dict[str, Any]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = {
        form: onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for form, file in files.items()
    }
    x = np.random.default_rng(0).normal(size=(batch, 3, 32, 32)).astype(np.float32)
    seconds: dict[str, list[float]] = {form: [] for form in sessions}
    repeats = max(1, 16 // batch)
    for number in range(rounds + 1):
        for form, session in sessions.items():
            tick = time.perf_counter()
            for _ in range(repeats):
                session.run(None, {"input": x})
            if number:  # the first round warms up
                seconds[form].append((time.perf_counter() - tick) / repeats)
    plain = seconds["plain"]
    return [
        {
            "batch": batch,
            "form": form,
            "median_ms": 1e3 * statistics.median(values),
            "over_plain": statistics.median(a / b for a, b in zip(values, plain, strict=True)),
            "over_plain_at_best": min(values) / min(plain),
            "more_mb_on_disk": (sizes[form] - sizes["plain"]) / 1e6,
        }
        for form, values in seconds.items()
    ]


def report(rows: list[dict[str, Any]], rounds: int) -> None:
    facts = {**provenance(), "onnxruntime": onnxruntime.__version__, "kept": KEPT, "rounds": rounds, "rows": rows}
    (RESULTS / "ort_latency.json").write_text(json.dumps(facts, indent=2) + "\n")
    head = ("batch", "form", "median ms", "over plain (median of rounds)", "over plain (best)", "MB more on disk")
    lines = [
        (
            row["batch"],
            row["form"],
            f"{row['median_ms']:.1f}",
            f"{row['over_plain']:.2f}x",
            f"{row['over_plain_at_best']:.2f}x",
            f"{row['more_mb_on_disk']:+.2f}",
        )
        for row in rows
    ]
    text = "# ONNX Runtime, CPU, one thread: ResNet-18 with 12,900 of 491,520 ReLUs kept, by form of the site\n\n"
    text += (
        f"{facts['hardware']}, {facts['versions']}, onnxruntime {facts['onnxruntime']}, {facts['date']}. Interleaved,\n"
    )
    text += f"{rounds} rounds; the machine was shared, so read the ratios. `python benchmarks/ort_latency.py`.\n\n"
    text += markdown_table(head, lines)
    (RESULTS / "ort_latency.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
