"""SNL: each ReLU fades into the fallback by a trainable real factor, under an L1 penalty that grows while it stalls.

Source: Cho et al., "Selective Network Linearization for Efficient Private Inference", ICML 2022. During the search

    y = a relu(x) + (1 - a) p(x),    loss + lambda sum |a|,    a unconstrained, 1 at the start

with p the identity (any degree on request). lambda is multiplied by `growth` after an epoch, from epoch `growth_from`
on, in which the count of a > `threshold` made no new minimum. Once an epoch ends with that count within the budget B
(or the search does), the masks become the B elements of largest a, and stay: exact, where thresholding would only come
close. What is left of the search trains the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from aurep.activation import HybridActivation
from aurep.search.masks import keep_top
from aurep.search.policy import Policy


class SnlOptions(BaseModel):
    """[search.options] of snl."""

    model_config = ConfigDict(extra="forbid")

    penalty: Annotated[float, Field(ge=0)] = 1e-5  # lambda at the start
    growth: Annotated[float, Field(ge=1)] = 1.1
    growth_from: Annotated[int, Field(ge=0)] = 5  # first epoch, from 0, after which lambda may grow
    threshold: float = 1e-2  # an element counts as ReLU while a is above it
    alpha_lr: Annotated[float, Field(gt=0)] = 1e-3


class Snl(Policy):
    """See the module docstring. The factor a is the site's `alpha`; `mask` shows which elements count as ReLU."""

    Options: ClassVar[type[BaseModel]] = SnlOptions
    default_degree: ClassVar[Literal[0, 1, 2]] = 0

    def __init__(self, sites: Sequence[HybridActivation], budget: int, options: SnlOptions, seed: int) -> None:
        super().__init__(sites, budget, options, seed)
        self.strength, self.lowest = options.penalty, self.total

    def start(self) -> None:
        for site in self.sites:
            site.alpha.data.fill_(1.0)
        self._blend(True)

    @property
    def settled(self) -> bool:
        return not self.sites[0].blend

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [site.alpha for site in self.sites], "lr": self.options.alpha_lr}]

    def penalty(self) -> Tensor | None:
        if self.settled:
            return None
        return self.strength * torch.stack([site.alpha.abs().sum() for site in self.sites]).sum()

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        if not self.settled:
            for site in self.sites:
                site.mask.copy_(site.alpha > self.options.threshold)

    def after_epoch(self, epoch: int) -> None:
        if self.settled:
            return
        count = sum(int(site.mask.sum()) for site in self.sites)
        if count >= self.lowest and epoch >= self.options.growth_from:
            self.strength *= self.options.growth
        self.lowest = min(self.lowest, count)
        if count <= self.budget:
            self.finish()

    def finish(self) -> None:
        if not self.settled:
            keep_top(self.sites, [site.alpha.detach() for site in self.sites], self.budget)
            self._blend(False)

    def _blend(self, on: bool) -> None:
        for site in self.sites:
            site.blend = on

    def state_dict(self) -> dict[str, Any]:
        return {"strength": self.strength, "lowest": self.lowest, "settled": self.settled}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.strength, self.lowest = state["strength"], state["lowest"]
        self._blend(not state["settled"])
