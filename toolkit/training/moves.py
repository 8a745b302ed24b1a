"""What a search did with its masks: elements that came back, and how far it went by itself.

A method's own indicators may not have reached the budget when the search ends. The projection that then meets it
decides in the method's place; a comparison of methods must show how much it cut.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aurep.search import Policy

_LARGEST_CUT = 0.1  # share of what a search keeps that its projection may cut unremarked
_SMALL_REST = 0.01  # and of all elements, where none may stay


class Moves:
    """Follows the masks of a policy's sites, which are as the search starts, or goes on, from."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._kept = self._masks()
        self.back = torch.zeros_like(self._kept)  # replaced once, kept again, since the last `recovered`

    def _masks(self) -> Tensor:
        return torch.cat([site.mask.flatten() for site in self.policy.sites])

    def follow(self) -> None:
        """Called after every step."""
        kept = self._masks()
        self.back |= kept & ~self._kept
        self._kept = kept

    def recovered(self) -> int:
        """How many elements came back since the last call."""
        count = int(self.back.sum())
        self.back.zero_()
        return count

    def finish(self) -> int:
        """Finish the search; what it kept by itself, before the projection to the budget."""
        kept = int(self._masks().sum())
        self.policy.finish()
        return kept if self.policy.found is None else self.policy.found


def cut_warning(kept: int, budget: int, total: int) -> str | None:
    """What to say where the projection decides much in the method's place; None where it does not.

    With a budget of 0 it decides nothing, and a rest of `total` that finetuning hardly notices goes unremarked.
    """
    if kept - budget <= _LARGEST_CUT * kept or (budget == 0 and kept <= _SMALL_REST * total):
        return None
    return (
        f"the search by itself keeps {kept:,} elements, and the projection to {budget:,} cuts "
        f"{100 * (1 - budget / kept):.0f} % of them, in the method's place. Give it more search.epochs, or raise its "
        "penalty or the rate of its indicators in search.options."
    )
