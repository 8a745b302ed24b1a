"""Search policies: how masks move within a budget. The engine knows only the `Policy` protocol.

Adding a method means adding a file with a class of this protocol and an entry in `POLICIES`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError
from torch import Tensor

from aurep.activation import HybridActivation
from aurep.errors import AurepError
from aurep.search.autorep import AutoRep


class Policy(Protocol):
    """One search method, living from the start of the search to its end."""

    Options: type[BaseModel]  # of [search.options]; unknown keys are refused

    def __init__(self, sites: Sequence[HybridActivation], budget: int, options: Any, seed: int) -> None:
        """Take over `sites` (all kept), to end with exactly `budget` elements kept."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimiser groups of parameters that only the search trains."""

    def penalty(self) -> Tensor | None:
        """A term of the loss, or None."""

    def after_step(self, progress: float) -> None:
        """Move the masks after an optimiser step; `progress` in (0, 1] of the search."""

    def finish(self) -> None:
        """Settle the masks: at most `budget` elements kept, exactly that many unless the method cannot use them."""

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs beside the sites' own state: plain values and tensors."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


POLICIES: dict[str, type[Policy]] = {"autorep": AutoRep}


def check_options(method: str, options: Mapping[str, Any]) -> BaseModel:
    """The options of `method`, checked. Raises AurepError naming the unknown method or key."""
    if method not in POLICIES:
        raise AurepError(f"search.method = {method!r} is not known; choose {', '.join(POLICIES)}.")
    try:
        return POLICIES[method].Options.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in ("search.options", *first["loc"]))
        known = ", ".join(POLICIES[method].Options.model_fields)
        raise AurepError(f"{key} is not valid for {method}: {first['msg'].lower()}; its options are {known}.") from None
