"""Which elements of each site stay ReLU, and the polynomials of the others, recovered from the graph.

A site is the group of nodes named `<site>/...`. Its nodes are evaluated over `Expression`s of its one input; what comes
out must be, element by element and in place, a ReLU or a polynomial of degree 2 at most. Anything else is no site.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from aurep.metadata import coefficient_digest
from aurep.validators.graph.batch import Walks
from aurep.validators.graph.facts import UncountableError, site_name
from aurep.validators.graph.infer import STANDARD
from aurep.validators.sites.constants import Constants
from aurep.validators.sites.expression import Expression, NotASiteError, apply
from aurep.validators.sites.pushed import Moved, unpushed
from aurep.validators.stages import say


@dataclass(frozen=True)
class RecoveredSite:
    """A site as the graph computes it: tensor names, per-image shape, and what every element becomes.

    `final` is what leaves the site; `polynomial`, where the form shows it, what its elements would be were none kept.
    `moved` names the constant that is still to be added to the output of a pushed site (see `pushed`). `nodes` are the
    first outputs of the nodes that lie between input and output; others of its name are not the site's.
    """

    name: str
    input: str
    output: str
    final: Expression
    polynomial: Expression | None
    moved: str | None = None
    nodes: frozenset[str] = frozenset()

    @property
    def nonlinear(self) -> bool:
        """Whether anything is ReLU or of degree 2: what any linear node could be called is no activation."""
        return bool(self.mask.any() or self.final.terms[2].any())

    @property
    def shape(self) -> tuple[int, ...]:
        return self.final.shape

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Of `shape`: True where the element stays ReLU."""
        kept: NDArray[np.bool_] = (self.final.terms[3] == 1).reshape(self.shape)
        return kept

    @cached_property
    def coefficients(self) -> NDArray[np.float32]:
        """(*shape, 3), ascending; zeros at kept elements."""
        terms: NDArray[np.float32] = np.moveaxis(self.final.terms[:3], 0, -1).reshape(*self.shape, 3)
        return terms

    @cached_property
    def even(self) -> bool:
        """Whether every channel has one polynomial for all its replaced elements, and its ReLUs bend at 0."""
        if not self.shape or self.moved is not None:
            return False
        rows = np.moveaxis(self.final.terms[:3], 0, -1).reshape(self.shape[0], -1, 3)
        return _uniform(rows, self.mask.reshape(self.shape[0], -1))

    def has_digest(self, digest: str, degree: int) -> bool | None:
        """Whether the coefficients, per channel or per element, have `digest`; None where the graph does not hold all
        of them (those of kept elements may be dropped: nothing uses them)."""
        if degree == 0:
            return coefficient_digest(None) == digest
        unseen = self.mask.reshape(-1)
        terms = self.final.terms[:3]
        if self.polynomial is not None:
            terms, unseen = np.where(unseen[None], self.polynomial.terms[:3], terms), np.zeros_like(unseen)
        table = np.moveaxis(terms, 0, -1).reshape(*self.shape, 3)[..., : degree + 1]
        rows = table.reshape(self.shape[0], -1, degree + 1)
        hidden = unseen.reshape(self.shape[0], -1)
        first = rows[np.arange(len(rows)), np.argmin(hidden, axis=1)]
        if coefficient_digest(first) == digest or coefficient_digest(table) == digest:
            return True
        return None if hidden.all(1).any() or (hidden.any() and not _uniform(rows, hidden)) else False


def _uniform(rows: NDArray[np.float32], hidden: NDArray[np.bool_]) -> bool:
    first = rows[np.arange(len(rows)), np.argmin(hidden, axis=1)]
    return bool(((rows == first[:, None]).all(-1) | hidden).all())


def recover_sites(given: onnx.ModelProto | Walks) -> dict[str, RecoveredSite]:
    """Sites of the main graph by name. A graph that cannot be walked has none."""
    walks = Walks.of(given)
    groups = _groups(walks.model.graph)
    if not groups:
        return {}
    try:
        reader = _Reader(walks)
    except UncountableError:
        return {}
    found = {}
    for name, nodes in groups.items():
        say(f"while following the site {name!r}")
        try:
            site = reader.read(name, nodes)
        except NotASiteError:
            continue
        found[name] = site
    return found


def pointwise_sites(given: onnx.ModelProto | Walks) -> dict[str, str]:
    """`pointwise` of a model's own sites."""
    return pointwise(recover_sites(given))


def pointwise(sites: Mapping[str, RecoveredSite]) -> dict[str, str]:
    """Output -> input tensor of the sites that treat all positions of a channel alike, but for which are ReLU. (Other
    polynomials could set zeros beside x for a pooling to compare with.)"""
    return {site.output: site.input for site in sites.values() if site.even}


def _groups(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    groups: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        if "/" in node.name:
            groups[site_name(node)].append(node)
    return groups


class _Reader:
    """Evaluates groups of nodes. Raises UncountableError."""

    def __init__(self, walks: Walks) -> None:
        self.facts, self.batch, model = walks.facts, walks.batch, walks.model
        self.constants = Constants(model, self.facts)
        self.functions = {(f.domain, f.name, f.overload): f for f in model.functions}
        self.readers: dict[str, set[int]] = defaultdict(set)
        for index, node in enumerate(model.graph.node):
            for name in node.input:
                self.readers[name].add(index)
        self.index = {output: i for i, node in enumerate(model.graph.node) for output in node.output}
        self.results = {value.name for value in model.graph.output}

    def read(self, name: str, nodes: list[onnx.NodeProto]) -> RecoveredSite:
        """Raises NotASiteError."""
        work = [node for node in nodes if not all(self.is_constant(output) for output in node.output)]
        made = {output for node in work for output in node.output}
        outside = {i for node in work for i in node.input if i and i not in made and not self.is_constant(i)}
        own = {self.index[output] for output in made if output}
        leaving = [o for o in made if o in self.results or self.readers[o] - own]
        if len(outside) != 1 or len(leaving) != 1:
            raise NotASiteError("a site has one input and one output")
        source, output = outside.pop(), leaving[0]
        used, moved = self.constants, self.moved(nodes)
        if moved is None:
            final = self.computed(output, work, source, used)
        else:
            used = moved.without
            pushed, alone = (self.computed(output, work, source, constants) for constants in (moved.any, used))
            final = unpushed(pushed, alone, moved)
        shape = self.shape(source)
        _check_whole(final, shape)
        polynomial = _full_polynomial(self.follow(work, source, used), shape, final)
        between = _between(work, output)
        return RecoveredSite(name, source, output, final, polynomial, moved.name if moved else None, between)

    def moved(self, nodes: list[onnx.NodeProto]) -> Moved | None:
        """What comes into a site of `nodes` and leaves it of constants that nodes compute; None where nothing does."""
        own = {self.index[output] for node in nodes for output in node.output if output}
        read = {name for node in nodes for name in node.input if name and self.is_constant(name)}
        made = {output for node in nodes for output in node.output if output and self.is_constant(output)}
        coming = {name for name in read - made if self.constants.is_computed(name)}
        left = {name for name in made if self.readers[name] - own or name in self.results}
        leaving = {name for name in left if self.constants.is_computed(name)}
        if len(coming) > 1 or len(leaving) > 1:
            raise NotASiteError("several constants come into a site, or leave it")
        return Moved.of(coming, leaving, self.constants) if coming or leaving else None

    def computed(self, output: str, work: list[onnx.NodeProto], source: str, constants: Constants) -> Expression:
        """The tensor `output` of those that the nodes `work` make of `source`."""
        (found,) = (value for name, value in self.follow(work, source, constants) if name == output)
        return found

    def follow(self, work: list[onnx.NodeProto], source: str, constants: Constants) -> Iterator[tuple[str, Expression]]:
        """Every tensor that the nodes `work` make of `source`, each given up once no node needs it any more."""
        values = {source: Expression.identity(self.shape(source))}
        yield source, values[source]
        last = {name: index for index, node in enumerate(work) for name in node.input}
        for index, node in enumerate(work):
            arguments = [values[i] if i in values else constants.value(i) if i else None for i in node.input]
            found = dict(zip(node.output, self.call(node, arguments), strict=False))
            values.update(found)
            del arguments
            for name in [name for name in (*node.input, *found) if last.get(name, -1) <= index]:
                values.pop(name, None)
            yield from found.items()

    def is_constant(self, name: str) -> bool:
        return not name or (name in self.facts and self.facts[name].constant)

    def shape(self, name: str) -> tuple[int, ...]:
        """Per image."""
        fact = self.facts.get(name)
        if fact is None or not fact.is_float or not fact.shape or fact.shape[0] != self.batch:
            raise NotASiteError("a tensor has no leading batch")
        return fact.shape[1:]

    def call(self, node: onnx.NodeProto, arguments: list[Any], depth: int = 0) -> list[Expression]:
        function = self.functions.get((node.domain, node.op_type, node.overload))
        if function is not None and depth < 8:
            return self.inside(function, arguments, depth)
        if node.domain not in STANDARD:
            raise NotASiteError("a custom operator")
        return [apply(node, arguments, lambda: self.shape(node.output[0]))]

    def inside(self, function: onnx.FunctionProto, arguments: list[Any], depth: int) -> list[Expression]:
        """A call of a model-local function, its body evaluated in place."""
        values: dict[str, Any] = dict(zip(function.input, arguments, strict=False))
        for node in function.node:
            if node.op_type == "Constant" and node.domain in STANDARD:
                values[node.output[0]] = self.constants.of_node(node)
                continue
            inputs = [values.get(i) if i else None for i in node.input]
            if not any(isinstance(value, Expression) for value in inputs):
                raise NotASiteError("a function computes with constants alone")
            values.update(zip(node.output, self.call(node, inputs, depth + 1), strict=False))
        results = [values.get(name) for name in function.output]
        if not all(isinstance(value, Expression) for value in results):
            raise NotASiteError("a function returns a constant")
        return [value for value in results if isinstance(value, Expression)]


def _between(work: list[onnx.NodeProto], output: str) -> frozenset[str]:
    """First outputs of the nodes of `work` that `output` depends on."""
    needed, found = {output}, set()
    for node in reversed(work):
        if needed.intersection(node.output):
            needed.update(node.input)
            found.add(node.output[0])
    return frozenset(found)


def _check_whole(final: Expression, shape: tuple[int, ...]) -> None:
    """Raises NotASiteError where what leaves a site is no ReLU or polynomial of each element."""
    relu = final.terms[3]
    if not final.in_place or final.shape != shape or not np.isin(relu, (0, 1)).all():
        raise NotASiteError("elements do not end where they began")
    if final.terms[:3, relu == 1].any():
        raise NotASiteError("a ReLU is mixed with a polynomial")
    if final.lowered:
        raise NotASiteError("a floor is neither 0 nor absent")


def _full_polynomial(
    values: Iterable[tuple[str, Expression]], shape: tuple[int, ...], final: Expression
) -> Expression | None:
    """The value in the input's own arrangement that is the final polynomial at replaced elements and some polynomial,
    not x itself, at all others. Of several (a masked one is zero where kept), that with the fewest zeros."""
    replaced = final.terms[3] == 0
    whole = (
        e
        for _, e in values
        if e.shape == shape
        and e.in_place
        and not e.terms[3].any()
        and not e.is_identity.any()
        and np.array_equal(e.terms[:3, replaced], final.terms[:3, replaced])
    )
    return max(whole, key=lambda e: int(e.terms.any(0).sum()), default=None)
