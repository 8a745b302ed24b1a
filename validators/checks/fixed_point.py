"""Does the network survive fixed point? MPC frameworks hold numbers as integers of a ring, with f fraction bits.

Simulated in fp32: weights and every intermediate value are rounded to multiples of 2^-f. A product has 2f fraction
bits before it is truncated, so in a ring of l bits |value| must stay below 2^(l - 1 - 2f), or it wraps around. fp32
holds 24 bits: above 2^(24 - f) its own rounding exceeds that of the fixed point, and the simulation is pessimistic.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper

from aurep.errors import AurepError
from aurep.frameworks import FixedPoint
from aurep.validators.checks.parity import difference
from aurep.validators.checks.tolerances import FIXED_POINT_AGREEMENT
from aurep.validators.files.samples import Samples
from aurep.validators.graph.batch import walk_once
from aurep.validators.graph.facts import FLOATS
from aurep.validators.report import Check
from aurep.validators.session import CannotRunError, Session

_ROUNDED = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "Mul", "Pow", "Div", "AveragePool", "GlobalAveragePool", "ReduceMean"}
)


def check_fixed_point(model: onnx.ModelProto, samples: Samples, form: FixedPoint, provider: str) -> Check:
    """Largest magnitude and surviving classes over `samples`."""
    simulated, probes = simulate(model, form.fraction)
    session = Session(simulated, provider)
    logits, peaks = [], np.zeros(len(probes))
    for outputs in session.run_all(samples.inputs):
        logits.append(outputs[session.outputs[0]])
        peaks = np.fmax(peaks, [float(outputs[name]) for name in probes])
    rounded = np.concatenate(logits)[: len(samples.logits)]
    result = difference(rounded, Session(model, provider).run(samples.inputs))
    agreement = result.agreeing / result.images
    at = int(np.argmax(peaks)) if len(peaks) else 0
    peak, where = (float(peaks[at]), list(probes.values())[at]) if len(peaks) else (0.0, "no node")
    overflows = not peak < form.limit
    problems = []
    if overflows:
        problems.append(
            f"{where} reaches {peak:.3g}, beyond what a {form.ring}-bit ring with {form.fraction} fraction bits "
            "multiplies; train with a range penalty, or use fewer fraction bits."
        )
    if agreement < FIXED_POINT_AGREEMENT:
        problems.append(
            f"Rounding to {form.fraction} fraction bits changes the class of {1 - agreement:.1%} of images."
        )
    margin = f"Largest value at {where}; logits move by {result.scaled:.1e} of the largest."
    measured = f"max |value| {peak:.3g}, top-1 {agreement:.1%}"
    allowed = f"< {form.limit:.3g}, >= {FIXED_POINT_AGREEMENT:.0%}"
    return Check("fixed-point", measured, allowed, not problems, " ".join(problems) or margin)


def simulate(model: onnx.ModelProto, fraction: int) -> tuple[onnx.ModelProto, dict[str, str]]:
    """`model` with everything rounded to multiples of 2^-fraction, and outputs that give each tensor's peak magnitude.

    Returns:
        The model, and output name -> name of the node whose magnitude it is. Raises CannotRunError.
    """
    try:
        copy = inliner.inline_local_functions(model)
        facts, _ = walk_once(copy)
    except (AurepError, RuntimeError) as error:
        raise CannotRunError(f"The graph cannot be rewritten in fixed point: {error}") from None
    graph = copy.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(_rounded(numpy_helper.to_array(tensor), fraction), tensor.name))
    up, down = "fixed-point/up", "fixed-point/down"
    graph.initializer.append(numpy_helper.from_array(np.array(2.0**fraction, np.float32), up))
    graph.initializer.append(numpy_helper.from_array(np.array(2.0**-fraction, np.float32), down))
    nodes, probes = [], {}
    for node in list(graph.node):
        nodes.append(node)
        for name in list(node.output):
            fact = facts.get(name)
            if fact is None or fact.constant or fact.elem_type not in FLOATS:
                continue
            if node.op_type in _ROUNDED:
                raw = f"fixed-point/raw/{name}"
                _rename_output(node, name, raw)
                nodes += _rounding(raw, name, up, down)
            nodes += _probe(name)
            probes[f"fixed-point/peak/{name}"] = node.name or name
    del graph.node[:]
    graph.node.extend(nodes)
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in probes)
    return copy, probes


def _rounded(values: NDArray[np.float32], fraction: int) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        found: NDArray[np.float32] = (np.round(values.astype(np.float64) * 2.0**fraction) / 2.0**fraction).astype(
            np.float32
        )
    return found


def _rename_output(node: onnx.NodeProto, old: str, new: str) -> None:
    names = [new if name == old else name for name in node.output]
    del node.output[:]
    node.output.extend(names)


def _rounding(source: str, target: str, up: str, down: str) -> list[onnx.NodeProto]:
    scaled, whole = f"{source}/scaled", f"{source}/whole"
    return [
        helper.make_node("Mul", [source, up], [scaled]),
        helper.make_node("Round", [scaled], [whole]),
        helper.make_node("Mul", [whole, down], [target]),
    ]


def _probe(name: str) -> list[onnx.NodeProto]:
    size = f"fixed-point/size/{name}"
    peak = helper.make_node("ReduceMax", [size], [f"fixed-point/peak/{name}"], keepdims=0)
    return [helper.make_node("Abs", [name], [size]), peak]
