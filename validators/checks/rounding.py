"""Does the network depend on how its numbers are rounded?

Floating-point arithmetic is no polynomial: (x + 2^23) - 2^23 is round(x) in fp32, hence a step, at any scale and in any
disguise, and so is a product so small that it falls below the smallest number. No rule over the graph finds all of
these; Monte Carlo arithmetic (Parker 1997) does: whatever lives in the last bits of an intermediate value is lost where
those bits are random. Every operand of an operator that adds or multiplies is disturbed by a relative error far above
the rounding of fp32 and far below what a network is sensitive to, element by element (so that sums within one operator
cannot cancel it) and as a whole (so that averaging copies cannot).
"""

from __future__ import annotations

import secrets
from itertools import count
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper

from aurep.errors import AurepError
from aurep.operators import operators
from aurep.validators.checks.inputs import IMAGES
from aurep.validators.checks.parity import difference, spread_of
from aurep.validators.checks.tolerances import DISTURBANCE, HONEST_MOVE, NEGLIGIBLE, ROUNDING_SCALED
from aurep.validators.files.samples import Samples
from aurep.validators.graph.batch import walk_once
from aurep.validators.graph.folding import FOLD_LIMIT
from aurep.validators.report import Check
from aurep.validators.session import CannotRunError, Session

_KINDS = (TensorProto.FLOAT, TensorProto.DOUBLE)  # arithmetic in narrower floats is counted as it is
_DISTURBED = operators(
    "Add Sub Mul Div Neg Sum Mean MatMul Gemm Conv ConvTranspose Einsum BatchNormalization AveragePool "
    "GlobalAveragePool"
)
_FIRST_ONLY = operators("Pow Resize Cast ReduceSum ReduceMean ReduceSumSquare ReduceProd CumSum")


def check_rounding(
    model: onnx.ModelProto, session: Session, samples: Samples | None, own: NDArray[Any]
) -> Check | None:
    """The failed check where the logits depend on rounding, on `own` images or on samples of the file; else None.

    `session` runs `model`.
    """
    allowed = f"<= {ROUNDING_SCALED}"
    kinds = [own] if samples is None else [own, samples.inputs[:IMAGES]]
    try:
        after = Session(disturbed(model), session.provider)
        plain = [session.run(inputs) for inputs in kinds]
        found = [after.run(inputs) for inputs in kinds]
    except CannotRunError as error:
        return Check("rounding", "does not run", allowed, False, str(error))
    fits = all(logits.shape[1:] == plain[0].shape[1:] for logits in plain)
    spreads = [spread_of(plain[0]), spread_of(np.concatenate(plain) if fits else plain[-1])]
    results = [difference(*logits, HONEST_MOVE) for logits in zip(found, plain, spreads, strict=False)]
    worst = max(result.scaled for result in results)
    if worst <= ROUNDING_SCALED:
        return None
    hint = (
        f"Disturbing all values by {DISTURBANCE:.0e} of themselves moves a logit by {worst:.2g} of what images move "
        "it, so the graph computes with rounding errors, which can stand in for comparisons that nobody counted; "
        "export the model again."
    )
    return Check("rounding", f"{worst:.1e}", allowed, False, hint)


def disturbed(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with the float operands of its arithmetic disturbed at random. Raises CannotRunError."""
    try:
        copy = inliner.inline_local_functions(model)
        facts, _ = walk_once(copy)
    except (AurepError, RuntimeError) as error:
        raise CannotRunError(f"The graph's rounding cannot be probed: {error}") from None
    small = {tensor.name: tensor for tensor in copy.graph.initializer if prod(tensor.dims) <= FOLD_LIMIT}
    rng = np.random.default_rng(secrets.randbits(64))
    nodes: list[onnx.NodeProto] = []
    numbers = count()
    for node in copy.graph.node:
        computed = not all(facts[name].constant for name in node.output if name)
        for place, name in enumerate(node.input):
            kind = facts[name].elem_type if name else 0
            if computed and kind in _KINDS and _is_disturbed(node, place):
                edge = f"rounding/{next(numbers)}"
                if name in small:
                    copy.graph.initializer.append(_noisy(numpy_helper.to_array(small[name]), edge, rng))
                else:
                    nodes += _noise(name, edge, kind, rng)
                node.input[place] = edge
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    return copy


def _is_disturbed(node: onnx.NodeProto, place: int) -> bool:
    if node.op_type in _FIRST_ONLY:
        return place == 0
    return node.op_type in _DISTURBED


def _factor(rng: np.random.Generator) -> float:
    """What a tensor is disturbed by as a whole."""
    return float(1 + rng.choice([-1, 1]) * rng.uniform(DISTURBANCE / 2, DISTURBANCE))


def _noisy(values: NDArray[Any], name: str, rng: np.random.Generator) -> TensorProto:
    """A constant, disturbed here: as nodes, thousands of them would all be run before the graph's first layer, and
    what ONNX Runtime takes to plan that grows with their square."""
    noise = _factor(rng) * rng.uniform(1 - DISTURBANCE, 1 + DISTURBANCE, values.shape)
    speck = rng.uniform(-NEGLIGIBLE, NEGLIGIBLE, values.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        return numpy_helper.from_array((values * noise + speck).astype(values.dtype), name)


def _noise(source: str, target: str, kind: int, rng: np.random.Generator) -> list[onnx.NodeProto]:
    """target = source * noise + speck, with noise and speck of the tensor's shape."""
    noise, product, speck = (f"{target}/{part}" for part in ("noise", "product", "speck"))
    factor, seeds = _factor(rng), rng.uniform(1, 1e6, 2)
    return [
        _uniform(source, noise, kind, factor * (1 - DISTURBANCE), factor * (1 + DISTURBANCE), seeds[0]),
        helper.make_node("Mul", [source, noise], [product]),
        _uniform(source, speck, kind, -NEGLIGIBLE, NEGLIGIBLE, seeds[1]),
        helper.make_node("Add", [product, speck], [target]),
    ]


def _uniform(source: str, target: str, kind: int, low: float, high: float, seed: float) -> onnx.NodeProto:
    return helper.make_node("RandomUniformLike", [source], [target], dtype=kind, low=low, high=high, seed=float(seed))
