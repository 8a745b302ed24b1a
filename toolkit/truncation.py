"""What a graph computes in fixed point, simulated: integers modulo 2^l, with f fraction bits.

Weights, constants and inputs are encoded towards zero, as CrypTen and SPU do it. A product has 2 f fraction bits until
it is truncated to f, so that |value| >= 2^(l - 1 - 2 f) has wrapped around by then. The truncation is

    deterministic   floor(v 2^f) / 2^f
    probabilistic   floor(v 2^f + u) / 2^f,  u uniform in [0, 1)

the second where each party cuts its own share (SecureML: Mohassel and Zhang, IEEE S&P 2017): the fraction of a random
share makes it round up with the probability of the fraction that is cut off. The shares themselves wrap around with
probability |v| / 2^(l - 2 f), which destroys the value; the sum over all truncated products is how many of them an
image may expect.

Computed in fp32, whose own 24 bits are the finer grain below 2^(24 - f).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from aurep.frameworks import FixedPoint

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]
Truncation = Literal["deterministic", "probabilistic"]
MODES: tuple[Truncation, ...] = ("deterministic", "probabilistic")
# Runs a model on inputs: every output by name, batch by batch; the first output is the logits.
Run = Callable[["onnx.ModelProto", Array], Iterator[Mapping[str, Array]]]

# Logits are kept where none moves by more than this share of the largest one: classes that were apart stay apart.
LOGITS_KEPT = 0.01
_PEAK, _MASS = "fixed-point/peak/", "fixed-point/mass/"
_TRUNCATED = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "Mul", "Pow", "Div", "AveragePool", "GlobalAveragePool", "ReduceMean"}
)


@dataclass(frozen=True)
class Prediction:
    """Logits in fixed point against exact ones.

    Attributes:
        max_error: largest absolute error; scaled_error: that over the largest exact logit.
        peak: largest magnitude before a truncation, at node `where`.
        wraps: shares that wrap around while they are truncated, expected per image.
    """

    logits: Array
    max_error: float
    scaled_error: float
    peak: float
    where: str
    wraps: float


def encode(values: Array, fraction: int) -> NDArray[np.float32]:
    """Multiples of 2^-fraction, towards zero."""
    with np.errstate(over="ignore", invalid="ignore"):
        found: NDArray[np.float32] = (np.trunc(values.astype(np.float64) * 2.0**fraction) / 2.0**fraction).astype(
            np.float32
        )
    return found


def in_fixed_point(
    model: onnx.ModelProto, tensors: Collection[str], form: FixedPoint, truncation: Truncation
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """`model` as `form` computes it, for encoded inputs, and with outputs that give magnitudes.

    Args:
        model: without functions.
        tensors: names of the float tensors that depend on the input.

    Returns:
        The model, and output name -> name of the node whose peak, or mass (sum of magnitudes), it is.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, stored = made.graph, list(made.graph.initializer)
    stored += [a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute if a.HasField("t")]
    for tensor in stored:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(encode(numpy_helper.to_array(tensor), form.fraction), tensor.name))
    for name, value in _constants(form).items():
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    nodes: list[onnx.NodeProto] = []
    probes: dict[str, str] = {}
    for node in list(graph.node):
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name not in tensors:
                continue
            seen, kinds = name, [_PEAK]
            if node.op_type in _TRUNCATED:
                seen, kinds = f"fixed-point/raw/{name}", [_PEAK, _MASS]
                node.output[place] = seen
                nodes += _truncated(seen, name, truncation, seed=len(probes))
            nodes += _probes(seen, name, kinds)
            probes.update({f"{kind}{name}": node.name or name for kind in kinds})
    del graph.node[:]
    graph.node.extend(nodes)
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in probes)
    return made, probes


def _constants(form: FixedPoint) -> dict[str, float]:
    whole = 2 * form.limit
    return {
        "fixed-point/up": 2.0**form.fraction,
        "fixed-point/down": 2.0**-form.fraction,
        "fixed-point/ring": whole,
        "fixed-point/turns": 1 / whole,
        "fixed-point/half": 0.5,
    }


def _truncated(source: str, target: str, truncation: Truncation, seed: int) -> list[onnx.NodeProto]:
    """Modulo the ring, then to f fraction bits."""
    from onnx import helper

    def step(op: str, *inputs: str, label: str, **attributes: Any) -> str:
        result = target if label == "out" else f"{source}/{label}"
        nodes.append(helper.make_node(op, inputs, [result], name=f"{source}/{label}", **attributes))
        return result

    nodes: list[onnx.NodeProto] = []
    turns = step("Mul", source, "fixed-point/turns", label="turns")
    whole = step("Floor", step("Add", turns, "fixed-point/half", label="shifted"), label="whole")
    wrapped = step("Sub", source, step("Mul", whole, "fixed-point/ring", label="rings"), label="wrapped")
    scaled = step("Mul", wrapped, "fixed-point/up", label="scaled")
    if truncation == "probabilistic":
        chance = step("RandomUniformLike", scaled, label="chance", seed=float(seed))
        scaled = step("Add", scaled, chance, label="moved")
    step("Mul", step("Floor", scaled, label="cut"), "fixed-point/down", label="out")
    return nodes


def _probes(source: str, name: str, kinds: Collection[str]) -> list[onnx.NodeProto]:
    from onnx import helper

    size = f"fixed-point/size/{name}"
    made = [helper.make_node("Abs", [source], [size])]
    reducers = {_PEAK: "ReduceMax", _MASS: "ReduceSum"}
    return made + [helper.make_node(reducers[kind], [size], [kind + name], keepdims=0) for kind in kinds]


def predict(
    model: onnx.ModelProto,
    tensors: Collection[str],
    form: FixedPoint,
    truncation: Truncation,
    inputs: Array,
    exact: Array,
    run: Run,
) -> Prediction:
    """Logits of `model` on `inputs` (n, ...) in `form`, against the `exact` ones (n, classes)."""
    simulated, probes = in_fixed_point(model, tensors, form, truncation)
    first = simulated.graph.output[0].name
    logits, rows = [], 0
    peaks = dict.fromkeys((name for name in probes if name.startswith(_PEAK)), 0.0)
    mass = 0.0
    for outputs in run(simulated, encode(inputs, form.fraction)):
        logits.append(outputs[first])
        rows += len(outputs[first])
        peaks = {name: float(np.fmax(peak, outputs[name])) for name, peak in peaks.items()}
        mass += sum(float(outputs[name]) for name in probes if name.startswith(_MASS))
    found = np.concatenate(logits)[: len(exact)]
    error = float(np.abs(found.astype(np.float64) - exact).max(initial=0))
    error = error if np.isfinite(error) else float("inf")
    largest = float(np.abs(exact).max(initial=0))
    at = max(peaks, key=lambda name: peaks[name], default=None)
    return Prediction(
        found,
        error,
        error / largest if largest else error,
        peaks[at] if at is not None else 0.0,
        probes[at] if at is not None else "no node",
        mass / (2 * form.limit) / max(rows, 1),
    )


def fraction_bits(
    model: onnx.ModelProto,
    tensors: Collection[str],
    form: FixedPoint,
    truncation: Truncation,
    inputs: Array,
    exact: Array,
    run: Run,
) -> int | None:
    """The fewest fraction bits of the ring that keep the logits (`LOGITS_KEPT`) without overflow; None if none do."""

    def keeps(fraction: int) -> bool:
        tried = FixedPoint(form.ring, fraction)
        found = predict(model, tensors, tried, truncation, inputs, exact, run)
        return found.peak < tried.limit and found.scaled_error <= LOGITS_KEPT

    high = form.fraction
    while not keeps(high):
        high += 2
        if 2 * high >= form.ring - 1:
            return None
    low = 0  # known to be too few
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high
