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
from collections.abc import Callable
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
from aurep.validators.checks.tolerances import DISTURBANCE, HONEST_MOVE, LEAST_DISTURBED, NEGLIGIBLE, ROUNDING_SCALED
from aurep.validators.files.samples import Samples
from aurep.validators.graph.batch import Walks
from aurep.validators.graph.facts import Fact, Shape
from aurep.validators.graph.folding import FOLD_LIMIT
from aurep.validators.report import Check
from aurep.validators.session import CannotRunError, Session

_KINDS = (TensorProto.FLOAT, TensorProto.DOUBLE)  # arithmetic in narrower floats is counted as it is
_DISTURBED = operators(
    "Add Sub Mul Div Neg Sum Mean MatMul Gemm Conv ConvTranspose Einsum BatchNormalization AveragePool "
    "GlobalAveragePool"
)
_ADDED = {"Add": (0, 1), "Sub": (0, 1), "Sum": range(1000), "Conv": (2,)}  # operands that are added as they are
_PAIRS = 16  # of noises for images of one shape
_OVERFLOWS = (
    "On images drawn at random, or on the bundle's, logits are infinite or no number, so that nothing can be said of "
    "how the graph rounds. Far from the images that it was fitted on a network of polynomials may overflow: fit it on "
    'more of them, or with method="bounded", and claim how inputs are normalised (mean and std): images are drawn so.'
)
_FIRST_ONLY = operators("Pow Resize Cast ReduceSum ReduceMean ReduceSumSquare ReduceProd CumSum")


def check_rounding(
    model: onnx.ModelProto | Walks, session: Session, samples: Samples | None, own: NDArray[Any]
) -> Check | None:
    """The failed check where the logits depend on rounding, on `own` images or on samples of the file; else None.

    `session` runs `model`.
    """
    allowed = f"<= {ROUNDING_SCALED}"
    kinds = [own] if samples is None else [own, samples.inputs[:IMAGES]]
    try:
        after = Session(disturbed(model), session.provider, rows=IMAGES)
        plain = [session.run(inputs) for inputs in kinds]
        found = [_filled(after, inputs) for inputs in kinds]
    except CannotRunError as error:
        return Check("rounding", "does not run", allowed, False, str(error))
    fits = all(logits.shape[1:] == plain[0].shape[1:] for logits in plain)
    together = np.concatenate(plain) if fits else plain[-1]
    spreads = [spread_of(logits, LEAST_DISTURBED) for logits in (plain[0], together)]
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


def _filled(session: Session, inputs: NDArray[Any]) -> NDArray[Any]:
    """What a disturbed graph makes of `inputs`, repeated to as many images as it has noise for."""
    if session.batch is not None:
        return session.run(inputs)
    rows = np.arange(-(-len(inputs) // IMAGES) * IMAGES) % len(inputs)
    parts = [session.run(inputs[rows[at : at + IMAGES]]) for at in range(0, len(rows), IMAGES)]
    return np.concatenate(parts)[: len(inputs)]


def disturbed(given: onnx.ModelProto | Walks) -> onnx.ModelProto:
    """A model with the float operands of its arithmetic disturbed at random, for `IMAGES` images at a time where its
    batch is dynamic. Raises CannotRunError."""
    walks = Walks.of(given)
    try:
        if walks.model.functions:
            walks = Walks(inliner.inline_local_functions(walks.model))
        plain, facts = walks.model, walks.facts
    except (AurepError, RuntimeError) as error:
        raise CannotRunError(f"The graph's rounding cannot be probed: {error}") from None
    made = onnx.ModelProto()
    made.CopyFrom(plain)
    del made.graph.node[:]
    noise = _Noise(made.graph, walks.fixed or IMAGES)
    for node in plain.graph.node:
        computed = not all(facts[name].constant for name in node.output if name)
        moved = {
            place: noise.on(name, facts[name])
            for place, name in enumerate(node.input)
            if computed and name and facts[name].elem_type in _KINDS and _is_disturbed(node, place)
        }
        copy = made.graph.node.add()
        copy.CopyFrom(node)
        for place, name in moved.items():
            copy.input[place] = name
        if any(name in noise.stored and place in _ADDED.get(node.op_type, ()) for place, name in moved.items()):
            noise.settled.update(node.output)
    return made


def _is_disturbed(node: onnx.NodeProto, place: int) -> bool:
    if node.op_type in _FIRST_ONLY:
        return place == 0
    return node.op_type in _DISTURBED


class _Noise:
    """Disturbs operands of `graph`: x becomes x * noise + speck, noise element by element.

    In few nodes, since loading them is what a graph of thousands costs most time. Small constants are disturbed here.
    (As nodes they would all be run before the graph's first layer, and what ONNX Runtime takes to plan that grows with
    their square.) For images of few elements, noise is taken at random from a pool drawn here for their shape, other
    noise for each image: where its two parts cancel in one, they do not in the next. What a disturbed constant was
    added to is given no speck: below that constant's last bit it holds nothing.

    Attributes:
        stored: names of the disturbed constants.
        settled: tensors that need no speck.
    """

    def __init__(self, graph: onnx.GraphProto, images: int) -> None:
        self.graph, self.images = graph, images
        self.small = {tensor.name: tensor for tensor in graph.initializer if prod(tensor.dims) <= FOLD_LIMIT}
        self.rng = np.random.default_rng(secrets.randbits(64))
        self.edges = 0
        self.pools: dict[tuple[int, Shape], list[str]] = {}
        self.stored: set[str] = set()
        self.settled: set[str] = set()

    def on(self, name: str, fact: Fact) -> str:
        """A disturbed copy of the tensor `name`."""
        self.edges += 1
        edge = f"rounding/{self.edges}"
        if name in self.small:
            values = numpy_helper.to_array(self.small[name])
            noise, speck = self.draw(values.shape), self.rng.uniform(-NEGLIGIBLE, NEGLIGIBLE, values.shape)
            with np.errstate(over="ignore", invalid="ignore"):
                self.store((values * noise + speck).astype(values.dtype), edge)
            self.stored.add(edge)
            return edge
        product = edge if name in self.settled else f"{edge}/product"
        self.node("Mul", [name, self.noise(name, fact, f"{edge}/noise")], product)
        if product != edge:
            any_speck = self.pooled(fact.elem_type, (), 0, lambda: self.rng.uniform(NEGLIGIBLE / 2, NEGLIGIBLE))
            self.node("Add", [product, any_speck], edge)
        return edge

    def noise(self, name: str, fact: Fact, target: str) -> str:
        """Noise for all elements of the tensor `name`, which a node makes as `target` where it is not stored."""
        each = (self.images, *fact.shape[1:]) if fact.rows and fact.shape else None
        if each is not None and prod(each) <= IMAGES * FOLD_LIMIT:
            return self.pooled(fact.elem_type, each, 1, lambda: self.draw(each))
        factor, seed = self.factor(), float(self.rng.uniform(1, 1e6))
        low, high = factor * (1 - DISTURBANCE), factor * (1 + DISTURBANCE)
        self.node("RandomUniformLike", [name], target, dtype=fact.elem_type, low=low, high=high, seed=seed)
        return target

    def factor(self) -> float:
        """What a tensor is disturbed by as a whole."""
        size = float(self.rng.uniform(DISTURBANCE / 2, DISTURBANCE))
        return 1 + size if self.rng.random() < 0.5 else 1 - size

    def draw(self, shape: Shape) -> NDArray[np.float64]:
        return self.factor() * self.rng.uniform(1 - DISTURBANCE, 1 + DISTURBANCE, shape)

    def pooled(self, elem_type: int, shape: Shape, middle: float, draw: Callable[[], Any]) -> str:
        """The name of some stored noise of `shape` around `middle`.

        Each has its opposite in the pool: what thousands of layers are disturbed by adds up like a random walk, as it
        would of noise drawn anew, and does not drift.
        """
        names = self.pools.setdefault((elem_type, shape), [])
        if not names:
            names += [f"rounding/pool/{len(self.pools)}/{number}" for number in range(2 * _PAIRS)]
            dtype = helper.tensor_dtype_to_np_dtype(elem_type)
            for one, other in zip(names[::2], names[1::2], strict=True):
                values = np.asarray(draw())
                self.store(values.astype(dtype), one)
                self.store((2 * middle - values).astype(dtype), other)
        return names[self.rng.integers(len(names))]

    def store(self, values: NDArray[Any], name: str) -> None:
        self.graph.initializer.append(numpy_helper.from_array(values, name))

    def node(self, kind: str, inputs: list[str], output: str, **settings: Any) -> None:
        made = self.graph.node.add(op_type=kind, input=inputs, output=[output])
        made.attribute.extend(helper.make_attribute(key, value) for key, value in settings.items())
