"""SNL: each ReLU fades into the fallback by a trainable real factor, under an L1 penalty that grows while it stalls.

Source: Cho et al., "Selective Network Linearization for Efficient Private Inference", ICML 2022. During the search

    y = a relu(x) + (1 - a) p(x),    loss + lambda sum |a|,    a unconstrained, 1 at the start

with p the identity (any degree on request). `checks` times, evenly over the search, the elements with a > `threshold`
are counted. Where there are no fewer than ever before, lambda is multiplied by `growth`, once the share `growth_from`
of the search has passed; published is a check per epoch, growing from the sixth on. Once a check finds the count within
the budget B (or the search ends), the masks become the B elements of largest a, and stay: exact, where thresholding
would only come close. What is left of the search trains the weights.

The paper trains until the count is reached, at a constant rate, which the factors have here too. Here lambda's growth
and the factors' rate fit the length of the search, and are the published ones over 200 epochs (see
`aurep.search.lengths`). A search of fewer steps than `checks` looks after every step, and lambda then grows by the
power of `growth` that makes up for the looks it has no room for. In any search shorter than the published one a count
also stalls if at its present pace it comes too late to the budget. Under the penalty a factor swings about zero by
some steps, so the threshold is stretched with the rate: published, it is ten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from aurep.activation import HybridActivation
from aurep.search.lengths import PUBLISHED_STEPS, due, indicator_group, stretched
from aurep.search.masks import kept_elements
from aurep.search.policy import Policy


class SnlOptions(BaseModel):
    """[search.options] of snl."""

    model_config = ConfigDict(extra="forbid")

    penalty: Annotated[float, Field(ge=0)] = 1e-5  # lambda at the start
    growth: Annotated[float, Field(ge=1)] = 1.1
    checks: Annotated[int, Field(ge=1)] = 200  # of the count; at most one a step
    growth_from: Annotated[float, Field(ge=0, le=1)] = 5 / 200  # share of the search after which lambda may grow
    threshold: float = 1e-2  # an element counts as ReLU while a is above it; at the published length, as `alpha_lr`
    alpha_lr: Annotated[float, Field(gt=0)] = 1e-3  # per step of the published length


class Snl(Policy):
    """See the module docstring. The factor a is the site's `alpha`; `mask` shows which elements count as ReLU."""

    Options: ClassVar[type[BaseModel]] = SnlOptions
    default_degree: ClassVar[Literal[0, 1, 2]] = 0

    def __init__(
        self, sites: Sequence[HybridActivation], budget: int, options: SnlOptions, seed: int, *, steps: int
    ) -> None:
        super().__init__(sites, budget, options, seed, steps=steps)
        self.strength, self.lowest = options.penalty, self.total
        self.threshold = min(stretched(options.threshold, steps), 0.5)

    def start(self) -> None:
        for site in self.sites:
            site.alpha.data.fill_(1.0)
        self._blend(True)

    @property
    def settled(self) -> bool:
        return not self.sites[0].blend

    def parameter_groups(self) -> list[dict[str, Any]]:
        group = indicator_group([site.alpha for site in self.sites], self.options.alpha_lr, self.steps)
        return [{**group, "constant": True}]

    def penalty(self) -> Tensor | None:
        if self.settled:
            return None
        return self.strength * torch.stack([site.alpha.abs().sum() for site in self.sites]).sum()

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        if self.settled:
            return
        for site in self.sites:
            site.mask.copy_(site.alpha > self.threshold)
        if due(round(progress * self.steps), self.steps, self.options.checks):
            self._check(progress)

    def _check(self, progress: float) -> None:
        count = kept_elements(self.sites)
        stalls = count >= self.lowest
        if self.steps < PUBLISHED_STEPS:
            left = (1 - progress) * min(self.options.checks, self.steps)
            stalls = stalls or count - self.budget > left * (self.lowest - count)
        if stalls and progress > self.options.growth_from:
            self.strength *= self.options.growth ** max(1.0, self.options.checks / self.steps)
        self.lowest = min(self.lowest, count)
        if count <= self.budget:
            self.finish()

    def finish(self) -> None:
        if not self.settled:
            self._project([site.alpha.detach() for site in self.sites])
            self._blend(False)

    def _blend(self, on: bool) -> None:
        for site in self.sites:
            site.blend = on

    def state_dict(self) -> dict[str, Any]:
        return {"strength": self.strength, "lowest": self.lowest, "settled": self.settled, "found": self.found}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.strength, self.lowest, self.found = state["strength"], state["lowest"], state["found"]
        self._blend(not state["settled"])
