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
from aurep.validators.graph.facts import Fact, Shape
from aurep.validators.graph.folding import FOLD_LIMIT
from aurep.validators.report import Check
from aurep.validators.session import CannotRunError, Session

_KINDS = (TensorProto.FLOAT, TensorProto.DOUBLE)  # arithmetic in narrower floats is counted as it is
_DISTURBED = operators(
    "Add Sub Mul Div Neg Sum Mean MatMul Gemm Conv ConvTranspose Einsum BatchNormalization AveragePool "
    "GlobalAveragePool"
)
_POOL = 32
_OVERFLOWS = (
    "On images drawn at random, or on the bundle's, logits are infinite or no number, so that nothing can be said of "
    "how the graph rounds. Far from the images that it was fitted on a network of polynomials may overflow: fit it on "
    'more of them, or with method="bounded", and claim how inputs are normalised (mean and std): images are drawn so.'
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
    if not all(np.isfinite(logits).all() for logits in plain):
        return Check("rounding", "not finite", allowed, False, _OVERFLOWS)
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
    noise = _Noise(copy.graph)
    nodes: list[onnx.NodeProto] = []
    for node in copy.graph.node:
        computed = not all(facts[name].constant for name in node.output if name)
        for place, name in enumerate(node.input):
            if computed and name and facts[name].elem_type in _KINDS and _is_disturbed(node, place):
                node.input[place], added = noise.on(name, facts[name])
                nodes += added
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    return copy


def _is_disturbed(node: onnx.NodeProto, place: int) -> bool:
    if node.op_type in _FIRST_ONLY:
        return place == 0
    return node.op_type in _DISTURBED


class _Noise:
    """Disturbs operands of `graph`: x becomes x * noise + speck, element by element.

    In few nodes, since loading them is what a graph of thousands costs most time. Small constants are disturbed here.
    (As nodes they would all be run before the graph's first layer, and what ONNX Runtime takes to plan that grows with
    their square.) For images of few elements, noise is taken at random from `_POOL` drawn here for their shape.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.small = {tensor.name: tensor for tensor in graph.initializer if prod(tensor.dims) <= FOLD_LIMIT}
        self.rng = np.random.default_rng(secrets.randbits(64))
        self.edges = 0
        self.pools: dict[tuple[int, Shape], str] = {}

    def on(self, name: str, fact: Fact) -> tuple[str, list[onnx.NodeProto]]:
        """A disturbed copy of the tensor `name`, and the nodes that make it."""
        self.edges += 1
        edge = f"rounding/{self.edges}"
        if name in self.small:
            values = numpy_helper.to_array(self.small[name])
            noise, speck = self.draw(values.shape)
            with np.errstate(over="ignore", invalid="ignore"):
                self.store((values * noise + speck).astype(values.dtype), edge)
            return edge, []
        each = fact.shape[1:] if fact.rows and fact.shape else None
        if each is not None and prod(each) <= FOLD_LIMIT:
            noise_of, speck_of = (self.pooled(kind, fact.elem_type, each) for kind in ("noise", "speck"))
            return edge, _product_and_sum(name, noise_of, speck_of, edge)
        factor, seeds = self.factor(), self.rng.uniform(1, 1e6, 2)
        low, high = factor * (1 - DISTURBANCE), factor * (1 + DISTURBANCE)
        noises = [
            _uniform(name, f"{edge}/noise", fact.elem_type, low, high, seeds[0]),
            _uniform(name, f"{edge}/speck", fact.elem_type, -NEGLIGIBLE, NEGLIGIBLE, seeds[1]),
        ]
        return edge, [*noises, *_product_and_sum(name, f"{edge}/noise", f"{edge}/speck", edge)]

    def factor(self) -> float:
        """What a tensor is disturbed by as a whole."""
        size = self.rng.uniform(DISTURBANCE / 2, DISTURBANCE)
        return float(1 + size if self.rng.random() < 0.5 else 1 - size)

    def draw(self, shape: Shape) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        noise = self.factor() * self.rng.uniform(1 - DISTURBANCE, 1 + DISTURBANCE, shape)
        return noise, self.rng.uniform(-NEGLIGIBLE, NEGLIGIBLE, shape)

    def pooled(self, kind: str, elem_type: int, each: Shape) -> str:
        """The name of some noise, or some specks, for images of shape `each`."""
        if (elem_type, each) not in self.pools:
            prefix = self.pools[elem_type, each] = f"rounding/pool/{len(self.pools)}"
            dtype = helper.tensor_dtype_to_np_dtype(elem_type)
            for number in range(_POOL):
                for name, values in zip(("noise", "speck"), self.draw((1, *each)), strict=True):
                    self.store(values.astype(dtype), f"{prefix}/{name}/{number}")
        return f"{self.pools[elem_type, each]}/{kind}/{self.rng.integers(_POOL)}"

    def store(self, values: NDArray[Any], name: str) -> None:
        self.graph.initializer.append(numpy_helper.from_array(values, name))


def _product_and_sum(source: str, noise: str, speck: str, target: str) -> list[onnx.NodeProto]:
    product = f"{target}/product"
    return [
        onnx.NodeProto(op_type="Mul", input=[source, noise], output=[product]),
        onnx.NodeProto(op_type="Add", input=[product, speck], output=[target]),
    ]


def _uniform(source: str, target: str, kind: int, low: float, high: float, seed: float) -> onnx.NodeProto:
    return helper.make_node("RandomUniformLike", [source], [target], dtype=kind, low=low, high=high, seed=float(seed))
