"""AutoReP: indicators trained by gradient decide which elements stay ReLU.

Source: Peng et al., "AutoReP: Automatic ReLU Replacement for Fast Private Network Inference", ICCV 2023. An element's
indicator alpha starts at random in (0, 1) and gets its gradient through the mask by the straight-through estimator of
`aurep.activation`; the mask follows alpha with a hysteresis of half-width t:

    m <- 1 if alpha > t;  0 if alpha <= -t;  unchanged between

The loss gains  lambda relu(density - B / N)  for a budget of B among N elements: it draws all indicators down until the
masks are within the budget, and then lets go, so that those that the loss misses come back. The search ends with a
projection to exactly the B elements of largest alpha.

lambda was published for ResNet-18 as 140 at 9,000 elements and 80 at 80,000: by default it is the power law of B / N
through these, level outside. The indicators' rate is of the published 200 epochs (see `aurep.search.lengths`).
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from aurep.activation import HybridActivation
from aurep.search.lengths import indicator_group
from aurep.search.policy import Policy

_PUBLISHED = ((9_000 / 491_520, 140.0), (80_000 / 491_520, 80.0))  # share kept -> lambda


class AutoRepOptions(BaseModel):
    """[search.options] of autorep."""

    model_config = ConfigDict(extra="forbid")

    penalty: Annotated[float, Field(ge=0)] | None = None  # lambda; None: by the share that is to stay
    hysteresis: Annotated[float, Field(ge=0)] = 0.003  # t
    alpha_lr: Annotated[float, Field(gt=0)] = 1e-3  # per step of the published length


class AutoRep(Policy):
    """See the module docstring."""

    Options: ClassVar[type[BaseModel]] = AutoRepOptions

    def start(self) -> None:
        draw = torch.Generator().manual_seed(self.seed)
        for site in self.sites:
            site.alpha.data.copy_(torch.rand(site.shape, generator=draw))

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [indicator_group([site.alpha for site in self.sites], self.options.alpha_lr, self.steps)]

    def penalty(self) -> Tensor:
        given: float | None = self.options.penalty
        strength = published_penalty(self.budget / self.total) if given is None else given
        kept = torch.stack([_straight_through(site).sum() for site in self.sites]).sum()
        return strength * F.relu(kept - self.budget) / self.total

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        t = self.options.hysteresis
        for site in self.sites:
            site.mask.copy_((site.alpha > t) | (site.mask & (site.alpha > -t)))

    def finish(self) -> None:
        self._project([site.alpha.detach() for site in self.sites])


def published_penalty(share: float) -> float:
    """lambda where `share` of the elements are to stay."""
    (least, high), (most, low) = _PUBLISHED
    share = min(max(share, least), most)
    return float(high * (share / least) ** (math.log(low / high) / math.log(most / least)))


def _straight_through(site: HybridActivation) -> Tensor:
    """The mask as fp32, with gradient softplus(alpha) towards alpha."""
    slope = F.softplus(site.alpha.detach()) * site.alpha
    return site.mask.float() + slope - slope.detach()
