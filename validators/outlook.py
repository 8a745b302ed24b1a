"""What private inference of a network would send if fewer of its activation elements stayed ReLU.

Asked of any ONNX file, before anything is trained, and of networks that were: each site's nodes are taken out of the
count and put back as aurep exports a site of which a share stays,

    compared             at the elements that stay, as often per element as the activation there now compares
    a polynomial         at all elements, unless every one stays: c2 x^2 + c1 x + c0 as a square and two scalings by
                         public coefficients, or Horner's (c2 x + c1) x + c0 as a product and one: the cheaper
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from aurep.frameworks import FRAMEWORKS, Protocol
from aurep.frameworks.framework import Unit
from aurep.validators.estimate import Counts, Row, Work, estimate_protocol

# Share of the elements that stay ReLU, and at how many sites, the largest; None: spread over all.
CASES: tuple[tuple[float, int | None], ...] = ((1.0, None), (0.1, None), (0.1, 4), (0.1, 1), (0.01, None), (0.01, 1))
CASES += ((0.0, None),)

# Of a polynomial, by its degree: what each of its nodes does.
_FORMS: Mapping[int, tuple[tuple[Unit, ...], ...]] = {
    0: ((),),
    1: (("scalings",),),
    2: (("squares", "scalings", "scalings"), ("scalings", "products")),
}


def outlook(work: Work, sites: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row per case: `share`, `relu_sites`, `relu_count`, and `estimates` of `bytes`, `weight_opening`, `rounds` per
    protocol. Which sites are kept changes next to nothing in them, how many does; the largest hold most.

    Args:
        work: of the graph as it is.
        sites: rows of `name` and `elements`: the activations that could be replaced.
    """
    elements = {str(site["name"]): int(site["elements"]) for site in sites}
    by_size = sorted(elements, key=lambda name: elements[name], reverse=True)
    rows = []
    for share, most in CASES:
        if most is not None and most >= len(elements):
            continue
        chosen = by_size[:most]
        held = sum(elements[name] for name in chosen) / sum(elements.values())
        kept = {name: int(min(share / held, 1.0) * elements[name]) for name in chosen}
        estimates = foresee(
            work, [{"name": name, "elements": count, "kept": kept.get(name, 0)} for name, count in elements.items()]
        )
        row = {"share": share, "relu_sites": sum(count > 0 for count in kept.values())}
        rows.append({**row, "relu_count": sum(kept.values()), "estimates": estimates})
    return rows


def foresee(work: Work, sites: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The estimates of `work` per protocol if of each of `sites`, rows of `name` and `elements`, `kept` stayed ReLU.

    Polynomials of `degree` (2 where a row has none) take the others' place."""
    compared: Counter[str] = Counter()
    for name, counts in work.nodes:
        compared[name] += counts["compared"]
    estimates = []
    for framework in FRAMEWORKS.values():
        for protocol in framework.protocols:
            if protocol.bytes_per is not None:
                found = estimate_protocol(protocol, _replaced(work, protocol, sites, compared))
                found.pop("sites")
                estimates.append({"framework": framework.name, **found})
    return estimates


def _replaced(
    work: Work, protocol: Protocol, sites: Sequence[Mapping[str, Any]], compared: Mapping[str, int]
) -> list[tuple[str, Counts]]:
    named = {str(site["name"]) for site in sites}
    nodes = [(name, counts) for name, counts in work.nodes if name not in named]
    for site in sites:
        name, count, kept = str(site["name"]), int(site["elements"]), int(site["kept"])
        per_element = compared[name] // count if compared[name] >= count else 1  # a site without any compares as ReLU
        if kept:
            nodes.append((name, Counts({"compared": per_element * kept})))
        if kept < count:
            degree = site.get("degree")
            nodes += [(name, Counts({unit: count})) for unit in _polynomial(protocol, 2 if degree is None else degree)]
    return nodes


def _polynomial(protocol: Protocol, degree: int) -> tuple[Unit, ...]:
    """What each node of a polynomial costs an element of."""
    per = protocol.bytes_per or {}
    return min(_FORMS[degree], key=lambda form: sum(per.get(unit, 0) for unit in form))
