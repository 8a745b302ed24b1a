"""A small graph builder: text in the ONNX parser's syntax in, a model out; and an honest bundle to tamper with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from aurep.metadata import (
    InputClaim,
    Metadata,
    SiteClaim,
    TrainingClaim,
    coefficient_digest,
    graph_digest,
    mask_digest,
)

HEADER = '<ir_version: 8, opset_import: ["" : {opset}, "ai.aurep" : 1, "evil" : 1, "two" : 1]>\n'
SHAPE = (4, 6, 6)
CLASSES = 5
POLYNOMIAL = """<domain: "ai.aurep", opset_import: ["" : 17]> Polynomial (x, c2, c1, c0) => (y)
{ a = Mul(x, c2) b = Add(a, c1) c = Mul(b, x) y = Add(c, c0) }"""
GATHER = """["act/Polynomial"] p = ai.aurep.Polynomial(h, c2, c1, c0)
 ["act/Flatten"] f = Flatten(h)
 ["act/Gather"] k = Gather<axis = 1>(f, kept)
 ["act/Relu"] r = Relu(k)
 ["act/FlattenPolynomial"] g = Flatten(p)
 ["act/Concat"] c = Concat<axis = 1>(r, g)
 ["act/Select"] s = Gather<axis = 1>(c, select)
 ["act/Reshape"] q = Reshape(s, shape)"""
MASK = """["act/Relu"] r = Relu(h) ["act/Keep"] k = Mul(r, mask)
 ["act/Polynomial"] p = ai.aurep.Polynomial(h, c2, c1, c0) ["act/Replace"] g = Mul(p, unmask)
 ["act/Add"] q = Add(k, g)"""
POWER = """["act/Square"] s = Pow(h, two) ["act/Mul2"] t = Mul(s, c2) ["act/Mul1"] u = Mul(h, c1)
 ["act/Sum"] v = Add(t, u) ["act/Add"] p = Add(v, c0) ["act/Where"] w = Relu(h) ["act/Select"] q = Where(mask, w, p)"""
MAX = """["act/Mul"] a = Mul(h, e2) ["act/Add1"] b = Add(a, e1) ["act/Horner"] c = Mul(b, h) ["act/Add0"] d = Add(c, e0)
 ["act/Max"] q = Max(d, floor)"""
# The site takes w = h - k for h, and its output lacks a constant that is added behind it.
PUSHED = """[front] k = Neg(lowering) [lower] w = Sub(h, k)
 ["act/bend"] i = Mul(e2, k) ["act/scale"] j = Add(e1, i) ["act/slope"] s = Add(j, i) ["act/scaled"] t = Mul(k, j)
 ["act/constant"] l = Add(e0, t) ["act/lowered"] n = Neg(k) ["act/floors"] floor = Where(mask, n, never)
 ["act/Mul"] a = Mul(w, e2) ["act/Add1"] b = Add(a, s) ["act/Horner"] c = Mul(b, w) ["act/Max"] m = Max(c, floor)
 [behind] q = Add(m, l)"""
FORMS = {"gather": GATHER, "mask": MASK, "max": MAX, "power": POWER, "pushed": PUSHED}


def parse(text: str, opset: int = 17) -> onnx.ModelProto:
    """A model from `text`, a graph and its functions; functions may use the domains ai.aurep, evil and two."""
    return onnx.parser.parse_model(HEADER.format(opset=opset) + text)


def body(lines: str, shape: str = "N, 4, 6, 6", opset: int = 17, out: str | None = None) -> onnx.ModelProto:
    """A graph from x (float) to y whose nodes are `lines`."""
    return parse(f"g (float[{shape}] x) => (float[{out or shape}] y) {{ {lines} }}", opset)


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def add_initializers(model: onnx.ModelProto, **arrays: NDArray[Any]) -> onnx.ModelProto:
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


@dataclass
class Hybrid:
    """conv -> site `act` -> linear, and the site's `mask` (4, 6, 6) and `coefficients` (4, 3), ascending."""

    model: onnx.ModelProto
    mask: NDArray[np.bool_]
    coefficients: NDArray[np.float32]


def hybrid(form: str = "gather", kept: int = 20, batch: str = "N", seed: int = 0) -> Hybrid:
    """A model of one site in one of `FORMS`, with `kept` of its 144 elements ReLU."""
    rng = np.random.default_rng(seed)
    n = int(np.prod(SHAPE))
    mask = np.zeros(n, bool)
    mask[rng.choice(n, kept, replace=False)] = True
    table = rng.normal(size=(4, 3)).astype(np.float32)
    text = f"""g (float[{batch}, 4, 6, 6] x) => (float[{batch}, {CLASSES}] y) {{
     [conv] h = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, weight)
     {FORMS[form]}
     [flatten] z = Flatten(q) [head] y = MatMul(z, matrix) }}"""
    text += POLYNOMIAL if form in ("gather", "mask") else ""
    model = parse(text)
    add_initializers(
        model,
        weight=rng.normal(size=(4, 4, 3, 3)).astype(np.float32) / 4,
        matrix=rng.normal(size=(n, CLASSES)).astype(np.float32),
        **_constants(form, mask, table),
    )
    return Hybrid(model, mask.reshape(SHAPE), table)


def _constants(form: str, mask: NDArray[np.bool_], table: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    full, columns = mask.reshape(SHAPE), [table[:, i].reshape(4, 1, 1) for i in range(3)]
    if form in ("max", "pushed"):
        identity = (0.0, 1.0, 0.0)
        terms = {f"e{i}": np.where(full, np.float32(identity[i]), columns[i]) for i in range(3)}
        if form == "pushed":
            lowering = np.random.default_rng(7).normal(size=(1, *SHAPE)).astype(np.float32)
            return {**terms, "mask": full, "never": np.float32(-np.inf).reshape(()), "lowering": lowering}
        return {**terms, "floor": np.where(full, 0, -np.inf).astype(np.float32)}
    named: dict[str, NDArray[Any]] = {f"c{i}": column for i, column in enumerate(columns)}
    if form == "gather":
        indices = np.flatnonzero(mask)
        select = np.arange(mask.size) + indices.size
        select[indices] = np.arange(indices.size)
        return {**named, "kept": indices, "select": select, "shape": np.array([-1, *SHAPE])}
    if form == "power":
        return {**named, "two": np.float32(2).reshape(()), "mask": full}
    return {**named, "mask": full.astype(np.float32), "unmask": (~full).astype(np.float32)}


def claim(made: Hybrid, **changes: Any) -> Metadata:
    """What an honest exporter would say of `made`; `changes` are lies."""
    kept = int(made.mask.sum())
    site = SiteClaim(
        name="act",
        shape=SHAPE,
        elements=made.mask.size,
        kept=kept,
        degree=2,
        coefficients_sha256=coefficient_digest(made.coefficients),
        mask_sha256=mask_digest(made.mask),
    )
    fields: dict[str, Any] = {
        "version": "0.1.0",
        "target": "onnx",
        "relu_budget": kept,
        "relu_count": kept,
        "relu_total": made.mask.size,
        "sites": (site,),
        "input": InputClaim(shape=SHAPE),
        "training": TrainingClaim(data="toy", test_accuracy=None),
        "comparisons": {"Relu": kept},
        "graph_sha256": graph_digest(made.model),
    }
    return Metadata(**{**fields, **changes})


def stamp(model: onnx.ModelProto, metadata: Metadata) -> onnx.ModelProto:
    del model.metadata_props[:]
    for key, text in metadata.to_props().items():
        model.metadata_props.add(key=key, value=text)
    return model


def bundle(folder: Path, made: Hybrid | None = None, metadata: Metadata | None = None) -> Path:
    """A bundle folder as an exporter writes it; its logits are those of the ONNX reference."""
    made = made or hybrid()
    metadata = metadata or claim(made)
    folder.mkdir(parents=True, exist_ok=True)
    save(stamp(made.model, metadata), folder / "model.onnx")
    (folder / "budget.json").write_text(metadata.to_json())
    inputs = np.random.default_rng(1).normal(size=(6, *SHAPE)).astype(np.float32)
    logits = reference(made.model, inputs)
    np.savez(folder / "samples.npz", inputs=inputs, logits=logits, labels=logits.argmax(1))
    return folder


def reference(model: onnx.ModelProto, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    (logits,) = list(ReferenceEvaluator(model).run(None, {"x": inputs}))
    return np.asarray(logits)


def tamper(folder: Path, change: Callable[[onnx.ModelProto], None], *, rehash: bool = True) -> Path:
    """Change the graph of a bundle; with `rehash`, its claimed digest follows, as one who means harm would see to."""
    file = folder / "model.onnx"
    model = onnx.load(file)
    fields = json.loads((folder / "budget.json").read_text())
    change(model)
    if rehash:
        fields["graph_sha256"] = graph_digest(model)
    metadata = Metadata.check(fields)
    save(stamp(model, metadata), file)
    (folder / "budget.json").write_text(metadata.to_json())
    return folder


def initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def change_initializer(name: str, edit: Callable[[NDArray[Any]], None]) -> Callable[[onnx.ModelProto], None]:
    """A change for `tamper`: `edit` works on the array in place."""

    def change(model: onnx.ModelProto) -> None:
        tensor = initializer(model, name)
        array = numpy_helper.to_array(tensor).copy()
        edit(array)
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    return change
