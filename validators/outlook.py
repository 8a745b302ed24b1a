"""What private inference of a network would send if fewer of its activation elements stayed ReLU.

Asked of any ONNX file, before anything is trained: each site's nodes are taken out of the count and put back as aurep
exports a site of which a share stays,

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

SHARES = (1.0, 0.1, 0.01, 0.0)  # of the elements that stay ReLU


def outlook(work: Work, sites: Sequence[Mapping[str, Any]], shares: Sequence[float] = SHARES) -> list[Row]:
    """A row per share: `share`, `relu_count`, and `estimates` of `bytes`, `weight_opening` and `rounds` per protocol.

    Args:
        work: of the graph as it is.
        sites: rows of `name` and `elements`: the activations that could be replaced.
    """
    elements = {str(site["name"]): int(site["elements"]) for site in sites}
    compared: Counter[str] = Counter()
    for name, counts in work.nodes:
        compared[name] += counts["compared"]
    rows = []
    for share in shares:
        kept = {name: int(share * count) for name, count in elements.items()}
        estimates = []
        for framework in FRAMEWORKS.values():
            for protocol in framework.protocols:
                if protocol.bytes_per is not None:
                    nodes = _replaced(work, protocol, elements, kept, compared)
                    found = estimate_protocol(protocol, nodes)
                    found.pop("sites")
                    estimates.append({"framework": framework.name, **found})
        rows.append({"share": share, "relu_count": sum(kept.values()), "estimates": estimates})
    return rows


def _replaced(
    work: Work,
    protocol: Protocol,
    elements: Mapping[str, int],
    kept: Mapping[str, int],
    compared: Mapping[str, int],
) -> list[tuple[str, Counts]]:
    nodes = [(name, counts) for name, counts in work.nodes if name not in elements]
    for name, count in elements.items():
        per_element = compared[name] // count if compared[name] >= count else 1  # a site without any compares as ReLU
        if kept[name]:
            nodes.append((name, Counts({"compared": per_element * kept[name]})))
        if kept[name] < count:
            nodes += [(name, Counts({unit: count})) for unit in _polynomial(protocol)]
    return nodes


def _polynomial(protocol: Protocol) -> tuple[Unit, ...]:
    """What each node of a polynomial costs an element of."""
    per = protocol.bytes_per or {}
    forms: tuple[tuple[Unit, ...], ...] = (("squares", "scalings", "scalings"), ("scalings", "products"))
    return min(forms, key=lambda form: sum(per.get(unit, 0) for unit in form))
