"""What `aurep inspect` shows: sites, totals and a plain estimate of what private inference pays for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from aurep.results import read_result, result_file
from aurep.validators.checks.places import relu_sites
from aurep.validators.estimate import count_work, estimate
from aurep.validators.files.reading import MODEL_FILE, read
from aurep.validators.graph.batch import Walks
from aurep.validators.graph.facts import UncountableError
from aurep.validators.outlook import outlook
from aurep.validators.relu_count import count
from aurep.validators.sites.recovery import pointwise, recover_sites
from aurep.validators.sites.table import site_rows


@dataclass(frozen=True)
class Inspection:
    """Counts per image.

    Attributes:
        relu_sites: places where ReLU-like elements are evaluated.
        sites: rows of `name`, `elements`, `kept`, `degree`.
        comparisons: operator type -> elements; None for a run, which has no graph yet.
        multiplications: products of two computed values, squares included, in elements.
        depth: multiplications, linear layers included, on the path that has most (the levels that homomorphic
            encryption needs); comparisons are given apart, since they have no fixed depth.
        compared_depth: comparisons on the path that has most: rounds of communication grow with it.
        problem: why the graph cannot be counted.
        counts: what the estimates are made from (see `estimate`), in total.
        outlook: what the estimates would be if fewer elements stayed ReLU, at all sites or at few (see `outlook`).
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
    outlook: tuple[dict[str, Any], ...] = ()
    relu_sites: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """What `to_dict` gave, after a way through JSON."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        return cls(**fields)


def inspect(path: str | Path) -> Inspection:
    """`entry.inspect` in this process."""
    given = Path(path)
    if given.is_dir() and not (given / MODEL_FILE).exists() and result_file(given) is not None:
        return _inspect_run(given)
    return _inspect_model(given)


def _inspect_run(folder: Path) -> Inspection:
    found = read_result(folder)
    rows = tuple({key: site.to_dict()[key] for key in ("name", "elements", "kept", "degree")} for site in found.sites)
    return Inspection(
        file=str(folder),
        relu_count=found.relu_count,
        relu_total=found.relu_total,
        relu_budget=found.relu_budget,
        sites=rows,
        multiplications=_squared(rows),
        relu_sites=found.relu_sites,
    )


def _inspect_model(path: Path) -> Inspection:
    artefact = read(path)
    walks = Walks(artefact.model)
    recovered = recover_sites(walks)
    budget = artefact.metadata.relu_budget if artefact.metadata is not None else None
    try:
        counted = count(walks, pointwise(recovered))
    except UncountableError as error:
        rows = site_rows(recovered, artefact.metadata, {})
        return Inspection(str(artefact.file), None, None, budget, rows, _squared(rows), problem=str(error))
    rows = site_rows(recovered, artefact.metadata, counted.by_site)
    total = sum(row["elements"] for row in rows)
    work = count_work(walks)
    counts = {str(unit): count for unit, count in work.counts.items()}
    return Inspection(
        file=str(artefact.file),
        relu_count=counted.total,
        relu_total=total,
        relu_budget=budget,
        sites=rows,
        multiplications=counts.get("squares", 0) + counts.get("products", 0),
        comparisons=counted.comparisons,
        depth=work.depth,
        compared_depth=work.compared_depth,
        counts=counts,
        estimates=tuple(estimate(work)),
        outlook=tuple(outlook(work, rows)) if rows else (),
        relu_sites=relu_sites(counted, recovered),
    )


def _squared(rows: Iterable[Mapping[str, Any]]) -> int:
    """Polynomials are evaluated at every element of a site, and the kept ones are put in their places after."""
    return sum(int(row["elements"]) for row in rows if row["degree"] == 2 and row["kept"] < row["elements"])
