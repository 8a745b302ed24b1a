"""Sites as reports and `aurep inspect` list them, recovered from the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aurep.metadata import Metadata
from aurep.validators.sites.recovery import RecoveredSite

Row = dict[str, Any]


def site_rows(
    recovered: Mapping[str, RecoveredSite], metadata: Metadata | None, counted: Mapping[str, int]
) -> tuple[Row, ...]:
    """Rows of `name`, `shape`, `elements`, `kept`, `degree`: claimed sites in their order, then what else of `counted`
    (ReLU-like elements by site) compares.

    A site of which nothing is left in the graph (all of it the identity) appears only where it is claimed; `degree` is
    None where nothing was replaced, and `shape` is None outside of sites.
    """
    rows = []
    claimed = {site.name: site for site in metadata.sites} if metadata is not None else {}
    for name in [*claimed, *(name for name, site in recovered.items() if name not in claimed and site.nonlinear)]:
        site = recovered.get(name)
        if site is not None:
            rows.append(_row(name, list(site.shape), site.mask.size, int(site.mask.sum()), degree(site)))
        elif claimed[name].kept == 0:
            rows.append(_row(name, list(claimed[name].shape), claimed[name].elements, 0, 0))
    listed = {row["name"] for row in rows}
    rows += [_row(name, None, elements, elements, None) for name, elements in counted.items() if name not in listed]
    return tuple(rows)


def degree(site: RecoveredSite) -> int | None:
    """Degree of the polynomials at replaced elements; the identity is 0, as in the metadata."""
    terms = site.final.terms[:, ~site.mask.reshape(-1)]
    if not terms.shape[1]:
        return None
    if terms[2].any():
        return 2
    return 0 if site.final.is_identity[~site.mask.reshape(-1)].all() else 1


def _row(name: str, shape: list[int] | None, elements: int, kept: int, degree: int | None) -> Row:
    return {"name": name, "shape": shape, "elements": elements, "kept": kept, "degree": degree}
