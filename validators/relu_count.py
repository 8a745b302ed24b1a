"""How many elements per image a graph really compares, counted from the graph alone.

A dynamic batch is counted at several sizes, two of them drawn at random: every computed tensor, and so the cost, must
be the same multiple of it each time. One size is beyond what anybody runs: what is cut from the batch by fixed bounds
is of fixed size there, or empty at a batch of 1. A fixed batch is divided out where the first input and the first
output share it and no operator may mix its images; otherwise the whole batch counts as one image.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from aurep.validators.files.reading import read
from aurep.validators.graph.batch import fixed_batch, walk_at
from aurep.validators.graph.facts import Fact, UncountableError
from aurep.validators.graph.walk import Walk
from aurep.validators.sites.recovery import pointwise_sites

UNHEARD_OF = 2**30  # images: no batch is as large; below twice that, 2^31 - 1 still says "to the end" of a slice


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
        pooling: elements compared by max-pooling proper, which no ReLU can hide in.
        sites: where the ReLU-like elements are.
        comparisons: operator type -> elements, pooling included; what `aurep.comparisons` claims.
        largest: elements of the largest tensor.
        batch: the fixed batch size; None where it is dynamic.
    """

    total: int
    pooling: int
    sites: tuple[SiteCount, ...]
    comparisons: dict[str, int]
    largest: int
    batch: int | None

    @property
    def by_site(self) -> dict[str, int]:
        return {site.name: site.elements for site in self.sites}


def count_relus(path: str | Path) -> ReluCount:
    """Count the ReLUs that an ONNX file, or the model of a bundle folder, evaluates per image.

    Raises:
        AurepError: the file cannot be read.
        UncountableError: it is a graph whose comparisons cannot be bounded from the graph alone (an AurepError too).
    """
    model = read(path).model
    return count(model, pointwise_sites(model))


def count(model: onnx.ModelProto, pointwise: Mapping[str, str] | None = None) -> ReluCount:
    """`count_relus` of a parsed model; `pointwise`: see `Walk`."""
    batch = fixed_batch(model)
    if batch is not None:
        walk = _walk(model, batch, pointwise or {})
        return _per_image(walk, batch if walk.rows else 1, batch)
    sizes = (1, 2, 3, 4 + secrets.randbelow(60), UNHEARD_OF + secrets.randbelow(UNHEARD_OF))
    walks = [_walk(model, size, pointwise or {}) for size in sizes]
    for size, other in zip(sizes, walks, strict=True):
        _check_proportion(walks[0], other, size)
    return _per_image(walks[0], 1, None)


def _check_proportion(one: Walk, other: Walk, size: int) -> None:
    """`other` must be what `one` is for a single image, `size` times."""
    costs = [replace(entry, elements=entry.elements * size) for entry in one.comparisons]
    if other.comparisons != costs or other.sizes != [elements * size for elements in one.sizes]:
        raise UncountableError(
            "the number of comparisons or the size of a tensor does not grow in proportion to the batch, so a count "
            "per image has no meaning; export with a fixed batch, or without operators that select or mix images."
        )


def _walk(model: onnx.ModelProto, batch: int, pointwise: Mapping[str, str]) -> Walk:
    walk, found = walk_at(model, batch, pointwise)
    _check_output(model, found, batch)
    return walk


def _check_output(model: onnx.ModelProto, found: Mapping[str, Fact], batch: int) -> None:
    """The batch that is divided out must be there at the end, or one image's work would count as a batch's."""
    name = model.graph.output[0].name
    if name not in found:
        raise UncountableError(f"the graph never computes its output {name!r}; export the model again.")
    shape = found[name].shape
    if batch > 1 and (not shape or shape[0] != batch):
        raise UncountableError(
            f"the input holds a batch of {batch} images but the output's shape is {shape}, so a count per image has no "
            "meaning; export with one output row an image."
        )


def _per_image(walk: Walk, divisor: int, batch: int | None) -> ReluCount:
    types: Counter[str] = Counter()
    sites: Counter[str] = Counter()
    for entry in walk.comparisons:
        types[entry.op_type] += entry.elements
        if not entry.pooling:
            sites[entry.site] += entry.elements
    if any(elements % divisor for elements in (*types.values(), *sites.values())):
        raise UncountableError(
            f"the comparisons do not divide by the batch of {divisor}, so a count per image has no meaning; "
            "export with a batch that every layer keeps."
        )
    pooling = sum(entry.elements for entry in walk.comparisons if entry.pooling) // divisor
    total = sum(sites.values()) // divisor
    return ReluCount(
        total,
        pooling,
        tuple(SiteCount(name, elements // divisor) for name, elements in sites.items()),
        {op: elements // divisor for op, elements in sorted(types.items())},
        walk.largest,
        batch,
    )
