"""How many elements per image a graph really compares, counted from the graph alone.

A dynamic batch is proven to cost the same for every image, however many there are. What operators may do with a number
derived from it are sums and products (`graph.infer`); what they make of a tensor is then cut, padded or divided by
constants. So each dimension is a function of the batch that is rational, or has one constant slope from some batch on;
it must equal the same affine function at five sizes: 1, 2, 3, one drawn from 4 to 63, and one beyond what anybody runs.
Computed tensors, and so costs, must be multiples of the batch. A fixed batch is divided out where the first output has
it too and no operator may mix its images; otherwise the whole batch counts as one image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, Self

import onnx

from aurep.validators.files.reading import read
from aurep.validators.graph.alike import Tensor
from aurep.validators.graph.batch import Walks
from aurep.validators.graph.facts import OUT_OF_PROPORTION, Fact, UncountableError, site_name
from aurep.validators.graph.walk import Walk
from aurep.validators.sites.recovery import pointwise_sites


@dataclass(frozen=True)
class SiteCount:
    """ReLU-like elements per image of one site, the nodes whose names share a prefix."""

    name: str
    elements: int


@dataclass(frozen=True)
class ReluCount:
    """What a graph compares, in elements per image.

    Attributes:
        total: ReLU-like elements: everything that can serve as a ReLU, in whatever disguise.
        poolings: node -> elements compared by max-pooling proper, which no ReLU can hide in.
        sites: where the ReLU-like elements are.
        nodes: the same by the first output of the main graph's node that they belong to.
        places: how often something ReLU-like is evaluated there: each time costs the rounds of a comparison.
        comparisons: operator type -> elements, pooling included; what `aurep.comparisons` claims.
        largest: elements of the largest tensor.
        batch: the fixed batch size; None where it is dynamic.
    """

    total: int
    poolings: dict[str, int]
    sites: tuple[SiteCount, ...]
    nodes: dict[str, int]
    places: dict[str, int]
    comparisons: dict[str, int]
    largest: int
    batch: int | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """What `to_dict` gave, after a way through JSON."""
        return cls(**data | {"sites": tuple(SiteCount(**site) for site in data["sites"])})

    @property
    def pooling(self) -> int:
        return sum(self.poolings.values())

    @property
    def by_site(self) -> dict[str, int]:
        return {site.name: site.elements for site in self.sites}


def count_relus(path: str | Path) -> ReluCount:
    """`entry.count_relus` in this process."""
    walks = Walks(read(path).model)
    return count(walks, pointwise_sites(walks))


def count(given: onnx.ModelProto | Walks, pointwise: Mapping[str, str] | None = None) -> ReluCount:
    """`count_relus` of a parsed model; `pointwise`: see `Walk`."""
    walks = Walks.of(given)
    walk = walks.walk(pointwise)
    if walks.fixed is not None:
        rows = all(fact.rows or fact.constant for tensor in walk.tensors for fact in tensor.facts)
        shared = rows and (_output(walk).facts[0].shape or (0,))[0] == walks.fixed
        return _per_image(walk, walks.fixed if shared else 1, walks.fixed)
    _check_output(walk, walks.batches)
    for tensor in walk.tensors:
        _check_affine(tensor.facts, walks.batches)
    for visit in walk.visits:
        elements = visit.found.elements
        if any(elements) and elements != tuple(elements[0] * size for size in walks.batches):
            raise UncountableError(OUT_OF_PROPORTION.format("the number of comparisons"))
    return _per_image(walk, 1, None)


def _check_affine(facts: Sequence[Fact], sizes: Sequence[int]) -> None:
    """Dimensions, and numbers made of the batch, must be affine in it; elements of computed tensors, multiples."""
    same_kind = len({(fact.shape is None, fact.batched and fact.data is not None) for fact in facts}) == 1
    shapes = [list(fact.shape or ()) for fact in facts]
    numbers = [fact.data.reshape(-1).tolist() if fact.batched and fact.data is not None else [] for fact in facts]
    affine = same_kind and _is_affine(shapes, sizes) and _is_affine(numbers, sizes)
    elements = [prod(dim for dim in shape if dim) for shape in shapes]
    grown = facts[0].constant or not shapes[0] or elements == [elements[0] * size for size in sizes]
    if not (affine and grown):
        raise UncountableError(OUT_OF_PROPORTION.format("the size of a tensor"))


def _is_affine(values: Sequence[Sequence[int]], sizes: Sequence[int]) -> bool:
    """Whether `values`, a row for each of `sizes` (1, 2, ...), follow the line through the first two."""
    if len({len(row) for row in values}) > 1:
        return False
    steps = [(a, b - a) for a, b in zip(values[0], values[1], strict=True)]
    return all(list(row) == [a + step * (n - 1) for a, step in steps] for row, n in zip(values, sizes, strict=True))


def _check_output(walk: Walk, batches: Sequence[int]) -> None:
    """The batch must be there at the end, or one image's work would count as a batch's."""
    for batch, fact in zip(batches, _output(walk).facts, strict=True):
        if not fact.shape or fact.shape[0] != batch:
            raise UncountableError(
                f"the input holds a batch of {batch} images but the output's shape is {fact.shape}, so a count per "
                "image has no meaning; export with one output row an image."
            )


def _output(walk: Walk) -> Tensor:
    name = walk.model.graph.output[0].name
    if name not in walk.found:
        raise UncountableError(f"the graph never computes its output {name!r}; export the model again.")
    return walk.found[name]


def _per_image(walk: Walk, divisor: int, batch: int | None) -> ReluCount:
    types: Counter[str] = Counter()
    sites: Counter[str] = Counter()
    nodes: Counter[str] = Counter()
    poolings: Counter[str] = Counter()
    places: Counter[str] = Counter()
    for visit in walk.visits:
        elements, outermost = visit.found.elements[0], visit.outermost
        if not elements:
            continue
        types[visit.node.op_type] += elements
        if visit.found.pooling:
            poolings[outermost.name or outermost.output[0]] += elements
        else:
            sites[site_name(outermost)] += elements
            nodes[outermost.output[0]] += elements
            places[outermost.output[0]] += 1
    if any(elements % divisor for elements in (*types.values(), *nodes.values(), *poolings.values())):
        raise UncountableError(
            f"the comparisons do not divide by the batch of {divisor}, so a count per image has no meaning; "
            "export with a batch that every layer keeps."
        )
    total = sum(sites.values()) // divisor
    return ReluCount(
        total,
        {name: elements // divisor for name, elements in poolings.items()},
        tuple(SiteCount(name, elements // divisor) for name, elements in sites.items()),
        {name: elements // divisor for name, elements in nodes.items()},
        dict(places),
        {op: elements // divisor for op, elements in sorted(types.items())},
        max((tensor.facts[0].elements or 0 for tensor in walk.tensors), default=0),
        batch,
    )
