"""At how many places does the graph evaluate ReLUs? Rounds grow with these, whatever the elements at each."""

from __future__ import annotations

from collections.abc import Mapping

from aurep.errors import AurepError
from aurep.frameworks import FRAMEWORKS
from aurep.metadata import Metadata
from aurep.validators.relu_count import ReluCount
from aurep.validators.report import Check
from aurep.validators.sites.recovery import RecoveredSite


def relu_sites(count: ReluCount, recovered: Mapping[str, RecoveredSite], kept: bool = False) -> int:
    """Evaluations of something ReLU-like, one after the other or not.

    With `kept`, a recovered site is one where any of its elements stays ReLU, whether or not its form compares.
    """
    places = sum(count.places.values())
    if not kept:
        return places
    inside = (sum(count.places.get(node, 0) for node in site.nodes) for site in recovered.values())
    return places - sum(min(n, 1) for n in inside) + sum(bool(site.mask.any()) for site in recovered.values())


def check_places(
    count: ReluCount | AurepError,
    metadata: Metadata | None,
    max_sites: int | None,
    recovered: Mapping[str, RecoveredSite],
) -> Check | None:
    """Hold them against a limit, given or claimed; None where there is none."""
    allowed = max_sites if max_sites is not None or metadata is None else metadata.max_sites
    if allowed is None:
        return None
    if isinstance(count, AurepError):
        return Check("relu-sites", "uncountable", allowed, False, str(count))
    framework = FRAMEWORKS.get(metadata.target) if metadata is not None else None
    everywhere = framework is not None and framework.compares_everywhere
    measured = relu_sites(count, recovered, kept=everywhere and max_sites is None)
    if measured <= allowed:
        return Check("relu-sites", measured, allowed, True)
    hint = f"ReLUs are evaluated at {measured} places, each at the rounds of a comparison, but {allowed} are allowed."
    return Check("relu-sites", measured, allowed, False, f"{hint} Train with --max-sites {allowed}.")
