"""What every search method is: a few methods that the engine calls, of which a method overrides those that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel
from torch import Tensor, nn

from aurep.activation import HybridActivation
from aurep.search.masks import keep_top, kept_elements, total_elements


class Policy:
    """One search method, living from the start of the search to its end. It does nothing but keep every element.

    Making one changes nothing. Then follow `watch` where `uses_teacher`, and either `start` or, in a resume,
    `load_state_dict`: from there on the policy moves masks, alpha and blend, and may hook its sites (and, in `watch`,
    the teacher's activations). It removes its hooks in `finish`. A hook acts only on sites in training mode: validation
    runs through the same modules.
    """

    Options: ClassVar[type[BaseModel]]  # of [search.options]; unknown keys are refused
    default_degree: ClassVar[Literal[0, 1, 2]] = 2  # of the polynomials, where search.degree is not given
    uses_teacher: bool = False  # wants `watch`, and the teacher to run in every step, after the student
    found: int | None = None  # elements that the method kept by itself, before a projection to the budget

    def __init__(self, sites: Sequence[HybridActivation], budget: int, options: Any, seed: int, *, steps: int) -> None:
        """To end with exactly `budget` elements of `sites` kept, after `steps` optimiser steps, perhaps none.

        Raises AurepError for options that do not fit the sites.
        """
        self.sites, self.budget, self.options, self.seed, self.steps = sites, budget, options, seed, steps
        self.total = total_elements(sites)

    @classmethod
    def options_at(cls, options: Any, chosen: Sequence[int]) -> Any:
        """`options` for a search of the sites of these indices alone: what it lists per site, for them."""
        return options

    def watch(self, teacher: nn.Module, activations: Sequence[nn.Module]) -> None:
        """Called once, before all else, where `uses_teacher`: modules whose outputs are the teacher's, site by site."""

    def start(self) -> None:
        """Take over the sites, all kept, for a new search."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimiser groups of parameters that only the search trains."""
        return []

    def penalty(self) -> Tensor | None:
        """A term of the loss, or None."""
        return None

    def after_step(self, progress: float) -> None:
        """Move the masks after an optimiser step; `progress` in (0, 1] of the search."""

    def finish(self) -> None:
        """Settle the masks: at most `budget` elements kept, exactly that many unless the method cannot use them.

        The search may have had no step at all."""

    def _project(self, scores: Sequence[Tensor]) -> None:
        """Keep exactly the `budget` elements of highest score, and note how many were kept until now."""
        self.found = kept_elements(self.sites)
        keep_top(self.sites, scores, self.budget)

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs beside the sites' own state (alpha, mask): plain values and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, which may lie on the CPU, instead of `start`; alpha and masks are loaded already."""
