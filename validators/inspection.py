"""What `aurep inspect` shows: sites, totals and a plain estimate of what private inference pays for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from aurep.results import read_result, result_file
from aurep.validators.estimate import count_work, estimate
from aurep.validators.files.reading import MODEL_FILE, read
from aurep.validators.graph.facts import UncountableError
from aurep.validators.relu_count import count
from aurep.validators.sites.recovery import pointwise, recover_sites
from aurep.validators.sites.table import site_rows

_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_PRODUCTS = frozenset({"Mul", "Pow"})
_COMPARING = frozenset({"Relu", "Max", "Min", "Clip", "LeakyRelu", "MaxPool", "GlobalMaxPool", "Sigmoid", "HardSwish"})


@dataclass(frozen=True)
class Inspection:
    """Counts per image.

    Attributes:
        sites: rows of `name`, `elements`, `kept`, `degree`.
        comparisons: operator type -> elements; None for a run, which has no graph yet.
        multiplications: products of two computed values, squares included, in elements.
        depth: multiplications, linear layers included, on the longest path (the levels that homomorphic encryption
            needs); comparisons on it are given apart, since they have no fixed depth.
        compared_depth: comparisons on that path: rounds of communication grow with it.
        problem: why the graph cannot be counted.
        counts: what the estimates are made from (see `estimate`), in total.
        estimates: per protocol `bytes`, `weight_opening`, `rounds`, and bytes per site in `sites`.
    """

    file: str
    relu_count: int | None
    relu_total: int | None
    relu_budget: int | None
    sites: tuple[dict[str, Any], ...]
    multiplications: int
    comparisons: dict[str, int] | None = None
    depth: int | None = None
    compared_depth: int | None = None
    problem: str | None = None
    counts: dict[str, int] | None = None
    estimates: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def inspect(path: str | Path) -> Inspection:
    """Look at an ONNX file, a bundle folder or a run folder. Raises AurepError where it is none of these."""
    given = Path(path)
    if given.is_dir() and not (given / MODEL_FILE).exists() and result_file(given) is not None:
        return _inspect_run(given)
    return _inspect_model(given)


def _inspect_run(folder: Path) -> Inspection:
    found = read_result(folder)
    rows = tuple({key: site.to_dict()[key] for key in ("name", "elements", "kept", "degree")} for site in found.sites)
    return Inspection(str(folder), found.relu_count, found.relu_total, found.relu_budget, rows, _squared(rows))


def _inspect_model(path: Path) -> Inspection:
    artefact = read(path)
    recovered = recover_sites(artefact.model)
    budget = artefact.metadata.relu_budget if artefact.metadata is not None else None
    try:
        counted = count(artefact.model, pointwise(recovered))
    except UncountableError as error:
        rows = site_rows(recovered, artefact.metadata, None)
        return Inspection(str(artefact.file), None, None, budget, rows, _squared(rows), problem=str(error))
    rows = site_rows(recovered, artefact.metadata, counted)
    depth, compared = _depth(artefact.model)
    total = sum(row["elements"] for row in rows)
    work = count_work(artefact.model)
    counts = sum((done for _, done in work), Counter[str]())
    return Inspection(
        file=str(artefact.file),
        relu_count=counted.total,
        relu_total=total,
        relu_budget=budget,
        sites=rows,
        multiplications=counts["squares"] + counts["products"],
        comparisons=counted.comparisons,
        depth=depth,
        compared_depth=compared,
        counts=dict(counts),
        estimates=tuple(estimate(work)),
    )


def _squared(rows: Iterable[Mapping[str, Any]]) -> int:
    """Polynomials are evaluated at every element of a site, and the kept ones are put in their places after."""
    return sum(int(row["elements"]) for row in rows if row["degree"] == 2 and row["kept"] < row["elements"])


def _depth(model: onnx.ModelProto) -> tuple[int, int]:
    """(multiplications, comparisons) on the paths that have most of each; a call of a polynomial counts its body's."""
    bodies = {(f.domain, f.name): f for f in model.functions}
    levels: dict[str, tuple[int, int]] = {}
    for node in model.graph.node:
        above = [levels.get(name, (0, 0)) for name in node.input]
        products, compared = (max((level[i] for level in above), default=0) for i in (0, 1))
        body = bodies.get((node.domain, node.op_type))
        kinds = [inner.op_type for inner in body.node] if body is not None else [node.op_type]
        computed = any(name in levels or name in _inputs(model) for name in node.input)
        products += sum(kind in _PRODUCTS | _LINEAR for kind in kinds) * computed
        compared += sum(kind in _COMPARING for kind in kinds) * computed
        if computed:
            levels.update((name, (products, compared)) for name in node.output)
    found = [levels.get(value.name, (0, 0)) for value in model.graph.output]
    return max((p for p, _ in found), default=0), max((c for _, c in found), default=0)


def _inputs(model: onnx.ModelProto) -> set[str]:
    return {value.name for value in model.graph.input}
