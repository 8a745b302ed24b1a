"""AutoReP: indicators trained by gradient decide which elements stay ReLU.

Source: Peng et al., "AutoReP: Automatic ReLU Replacement for Fast Private Network Inference", ICCV 2023. An element's
indicator alpha gets its gradient through the mask by the straight-through estimator of `aurep.activation`; the mask
follows alpha with a hysteresis of half-width t:  m <- 1 if alpha > t;  0 if alpha <= -t;  unchanged between.

Two ways to the budget B of N elements:

schedule = "penalty", as published: the loss gains  lambda relu(density - B / N);  masks follow the hysteresis alone.
schedule = "cubic": after every step exactly the top K(progress) elements by  alpha + t (2 m - 1)  are kept, K falling from
    N to B. The offset is the same hysteresis, relative to the threshold that K implies.

Either way the search ends with an exact projection to the B elements of largest alpha.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from aurep.activation import HybridActivation
from aurep.search.masks import keep_top, scheduled_count, total_elements


class AutoRepOptions(BaseModel):
    """[search.options] of autorep."""

    model_config = ConfigDict(extra="forbid")

    schedule: Literal["cubic", "penalty"] = "cubic"
    settle: Annotated[float, Field(gt=0, le=1)] = 0.8  # share of the search after which the cubic stands at B
    penalty: Annotated[float, Field(ge=0)] = 80.0  # lambda
    hysteresis: Annotated[float, Field(ge=0)] = 0.003  # t
    alpha_lr: Annotated[float, Field(gt=0)] = 1e-3


class AutoRep:
    """See the module docstring. Indicators start uniform in (0, 1), all elements kept."""

    Options: type[BaseModel] = AutoRepOptions

    def __init__(self, sites: Sequence[HybridActivation], budget: int, options: AutoRepOptions, seed: int) -> None:
        self.sites, self.budget, self.options = sites, budget, options
        self.total = total_elements(sites)
        draw = torch.Generator().manual_seed(seed)
        for site in sites:
            site.alpha.data.copy_(torch.rand(site.shape, generator=draw))

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [site.alpha for site in self.sites], "lr": self.options.alpha_lr}]

    def penalty(self) -> Tensor | None:
        if self.options.schedule != "penalty":
            return None
        kept = torch.stack([_straight_through(site).sum() for site in self.sites]).sum()
        return self.options.penalty * F.relu(kept - self.budget) / self.total

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        t = self.options.hysteresis
        if self.options.schedule == "cubic":
            count = scheduled_count(self.budget, self.total, progress, self.options.settle)
            keep_top(self.sites, [site.alpha + t * (2.0 * site.mask - 1.0) for site in self.sites], count)
            return
        for site in self.sites:
            site.mask.copy_((site.alpha > t) | (site.mask & (site.alpha > -t)))

    def finish(self) -> None:
        keep_top(self.sites, [site.alpha.detach() for site in self.sites], self.budget)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        del state  # indicators and masks are the sites' own


def _straight_through(site: HybridActivation) -> Tensor:
    """The mask as fp32, with gradient softplus(alpha) towards alpha."""
    slope = F.softplus(site.alpha.detach()) * site.alpha
    return site.mask.float() + slope - slope.detach()
