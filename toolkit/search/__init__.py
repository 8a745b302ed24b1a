"""Search policies: how masks move within a budget. The engine knows only the `Policy` they share.

Adding a method means adding a file with a sub-class of it and an entry in `POLICIES`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from aurep.activation import HybridActivation
from aurep.errors import AurepError
from aurep.search.autorep import AutoRep
from aurep.search.baselines import Layerwise, Random, Uniform
from aurep.search.few_sites import FewSites, choose_sites
from aurep.search.policy import Policy
from aurep.search.saliency import Saliency
from aurep.search.senet import Senet
from aurep.search.snl import Snl

__all__ = ["POLICIES", "Policy", "check_options", "choose_sites", "make_policy", "policy_class"]

POLICIES: dict[str, type[Policy]] = {
    "autorep": AutoRep,
    "saliency": Saliency,
    "senet": Senet,
    "snl": Snl,
    "random": Random,
    "uniform": Uniform,
    "layerwise": Layerwise,
}


def policy_class(method: str) -> type[Policy]:
    """Raises AurepError naming the unknown method and those there are."""
    if method not in POLICIES:
        raise AurepError(f"search.method = {method!r} is not known; choose {', '.join(POLICIES)}.")
    return POLICIES[method]


def check_options(method: str, options: Mapping[str, Any]) -> BaseModel:
    """The options of `method`, checked. Raises AurepError naming the unknown method or key."""
    expected = policy_class(method).Options
    try:
        return expected.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in ("search.options", *first["loc"]))
        known = ", ".join(expected.model_fields)
        raise AurepError(f"{key} is not valid for {method}: {first['msg'].lower()}; its options are {known}.") from None


def make_policy(
    method: str,
    sites: Sequence[HybridActivation],
    budget: int,
    options: BaseModel,
    seed: int,
    *,
    steps: int,
    chosen: Sequence[int] | None = None,
) -> Policy:
    """The policy of `method`; with `chosen`, indices of sites as `choose_sites` gives them, one that keeps ReLUs there
    alone. Arguments as of `Policy`; raises AurepError as it does, and for an unknown method.
    """
    inner = policy_class(method)
    if chosen is None or len(chosen) == len(sites):
        return inner(sites, budget, options, seed, steps=steps)
    if not chosen:
        return inner(sites, 0, options, seed, steps=steps)
    return FewSites(inner, chosen, sites, budget, options, seed, steps=steps)
