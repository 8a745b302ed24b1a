"""One network, 50,000 of 491,520 ReLUs, written in four ways for SPU: what each compares, sends and takes.

    aurep handoff --setup spu
    python benchmarks/spu_case_study.py [--spu PYTHON] [--work runs/case]

After the report in SPU's tracker (issue 701) of a ResNet-18 that got slower as its ReLUs were cut to 50,000. As there,
the others became the identity. Weights and masks are random; traffic and comparisons depend on neither. One image, two
parties over loopback, SEMI2K. Bytes, messages and the number of times that SPU ran each operator are its own log's.
Cells lie in --work as JSON: finished ones are skipped. Writes benchmarks/results/spu_case_study.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from provenance import RESULTS, markdown_table, provenance
from random_masks import keep_at_random

TOTAL, KEPT = 491_520, 50_000
FORMS = {
    "all ReLU": "`relu(x)` everywhere",
    "mask": "`relu(x) m + x (1 - m)`",
    "element": "`x.at[:, kept].set(relu(x[:, kept]))`",
    "gather": "aurep's: `Relu(Gather(x, kept))`, then one `Gather` that puts both together",
    "no ReLU": "the identity everywhere",
}
OPERATORS = (
    ("convolutions", "pphlo.convolution"),
    ("comparisons", "pphlo.less"),
    ("products", "pphlo.multiply"),
    ("`while`", "pphlo.while"),
)
_SCATTER = """

OPERATORS["ScatterElements"] = lambda given, a: given[0].at[:, np.asarray(given[1])[0]].set(given[2])
"""
_EXECUTED = re.compile(r"- (?P<op>[\w.]+), executed (?P<times>\d+) times, duration (?P<seconds>[\d.e+-]+)s, send bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spu", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/case"))
    parser.add_argument("--timeout", type=float, default=3600)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for form in FORMS:
        file = arguments.work / f"{form.replace(' ', '-')}.json"
        if not file.exists():
            file.write_text(json.dumps(measure(form, arguments), indent=1))
            print(form, file.read_text()[:600], flush=True)
        rows.append(json.loads(file.read_text()))
    facts = {**provenance(), "relu_total": TOTAL, "rows": rows}
    (RESULTS / "spu_case_study.json").write_text(json.dumps(facts, indent=1) + "\n")
    (RESULTS / "spu_case_study.md").write_text(page(facts))
    print(page(facts))


def measure(form: str, arguments: argparse.Namespace) -> dict[str, Any]:
    from aurep.frameworks import find_driven
    from aurep.handoff.environment import find_python
    from aurep.handoff.processes import run_parties
    from aurep.handoff.session import PARTIES, _jobs, _Material
    from aurep.validators.files.reading import read
    from aurep.validators.files.samples import read_samples

    bundle = export_form(form, arguments.work)
    artefact, stored = read(bundle), read_samples(bundle)
    assert stored is not None
    spu = find_driven("spu")
    protocol = spu.protocol("SEMI2K")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(PARTIES, folder / "parties")
        translator = folder / "parties" / "onnx_to_jax.py"
        translator.write_text(translator.read_text() + _SCATTER)
        jobs = _jobs(
            _Material(artefact, stored.inputs[None, :1], stored.logits[:1]), protocol, folder, arguments.timeout
        )
        command = [str(find_python(spu, arguments.spu)), str(folder / "parties" / "spu_party.py")]
        results = run_parties(command, protocol.roles, jobs, folder, arguments.timeout, lambda rank, event: None)
        logs = [(folder / f"party{rank}.log").read_text(errors="replace") for rank in (0, 1)]
        found = np.load(folder / "logits.npy")
    read_log = spu.require_parties().read_log
    assert read_log is not None
    moved = [read_log(log)[0][0] for log in logs]
    executed = {m["op"]: int(m["times"]) for m in _EXECUTED.finditer(logs[0])}
    seconds = {m["op"]: float(m["seconds"]) for m in _EXECUTED.finditer(logs[0])}
    return {
        "form": form,
        "compared": compared(artefact.model),
        "bytes": sum(party["bytes_sent"] for party in moved),
        "messages": max(party["rounds"] for party in moved),
        "seconds": max(result["runs"][0]["seconds"] for result in results),
        "error": float(np.abs(found - stored.logits[:1]).max()),
        "packages": results[0]["packages"],
        "executed": executed,
        "operator_seconds": seconds,
    }


def compared(model: onnx.ModelProto) -> int:
    """Elements entering Relu."""
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    return sum(int(np.prod(shapes[node.input[0]])) for node in model.graph.node if node.op_type == "Relu")


def export_form(form: str, work: Path) -> Path:
    """The network as a bundle for SPU, in one of FORMS."""
    from aurep import prepare
    from aurep.exporters import TARGETS, export
    from aurep.models import build_model

    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    network = build_model("resnet18", num_classes=100, stem_relu=False).train()
    with torch.no_grad():
        for _ in range(20):
            network(images)  # batch norms: values stay within the fixed point
    model = prepare(network.eval(), images[:1], degree=0)
    kept = {"all ReLU": TOTAL, "no ReLU": 0}.get(form, KEPT)
    keep_at_random(model, kept, TOTAL)
    plain = TARGETS["spu"]
    TARGETS["spu"] = replace(plain, form="mask" if form == "mask" else "gather")
    folder = work / form.replace(" ", "-")
    try:
        file = export(model, images[:1], folder, "spu", samples=(images[:1].numpy(), np.zeros(1, dtype=np.int64)))
    finally:
        TARGETS["spu"] = plain
    if form == "element":
        scatter(folder / "model.onnx")
    del file
    return folder


def scatter(file: Path) -> None:
    """Every site's Concat and Gather become one ScatterElements into the row of its inputs."""
    model = onnx.load(file)
    nodes = {node.output[0]: node for node in model.graph.node}
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    constants |= {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
        for node in model.graph.node
        if node.op_type == "Constant"
    }
    for select in [node for node in model.graph.node if node.name.endswith("/Select")]:
        both = nodes[select.input[0]]
        kept = nodes[both.input[0]]
        index = constants[nodes[kept.input[0]].input[1]]
        stored = onnx.numpy_helper.from_array(index[None].astype(np.int64), f"{select.name}_index")
        model.graph.initializer.append(stored)
        written = helper.make_node(
            "ScatterElements", [both.input[1], stored.name, both.input[0]], [select.output[0]], name=select.name, axis=1
        )
        model.graph.node.insert(list(model.graph.node).index(select), written)
        model.graph.node.remove(select)
        model.graph.node.remove(both)
    onnx.checker.check_model(model)
    onnx.save(model, file)


# --- page ---


def page(facts: dict[str, Any]) -> str:
    rows = facts["rows"]
    lines = [
        "# ResNet-18 with 50,000 of 491,520 ReLUs on SPU, written in several ways\n",
        f"{facts['hardware']}, {facts['versions']}; {', '.join(rows[0]['packages'])}; {facts['date']}. One image of "
        "32x32, 100 classes, random weights and masks, the other elements the identity; SEMI2K, two parties over "
        "loopback. Bytes of both parties together; seconds on a busy machine: indicative only. "
        "`python benchmarks/spu_case_study.py`.\n",
        markdown_table(
            ["form", "", "elements compared", "MB sent", "of which activations", "messages", "logits error"],
            [
                [
                    row["form"],
                    FORMS[row["form"]],
                    f"{row['compared']:,}",
                    f"{row['bytes'] / 1e6:.1f}",
                    f"{(row['bytes'] - rows[-1]['bytes']) / 1e6:.1f}",
                    f"{row['messages']:,}",
                    f"{row['error']:.1e}",
                ]
                for row in rows
            ],
        ),
        "Of which activations: less what the network sends with no ReLU at all, which is for its convolutions.\n",
        "## Where the seconds go\n",
        "As SPU's log of party 0 has them, by operator. `while`: a loop that SPU runs iteration by iteration.\n",
        markdown_table(
            ["form", "seconds", *(name for name, _ in OPERATORS)],
            [
                [
                    row["form"],
                    f"{row['seconds']:.1f}",
                    *(f"{row['operator_seconds'].get(operator, 0):.1f}" for _, operator in OPERATORS),
                ]
                for row in rows
            ],
        ),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
