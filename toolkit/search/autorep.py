"""AutoReP: indicators trained by gradient decide which elements stay ReLU.

Source: Peng et al., "AutoReP: Automatic ReLU Replacement for Fast Private Network Inference", ICCV 2023. An element's
indicator alpha gets its gradient through the mask by the straight-through estimator of `aurep.activation`; the mask
follows alpha with a hysteresis of half-width t:  m <- 1 if alpha > t;  0 if alpha <= -t;  unchanged between.

Two ways to the budget B of N elements:

schedule = "penalty", as published: the loss gains  lambda relu(density - B / N);  masks follow the hysteresis alone.
schedule = "cubic": after every step exactly the top K(progress) elements by  alpha + t (2 m - 1)  are kept, K falling
    from N to B. The offset is the same hysteresis, relative to the threshold that K implies.

Either way the search ends with an exact projection to the B elements of largest alpha.

Indicators start at the element's rank (over N) by the score of `aurep.search.scores`, measured over the first `scoring`
of the search with all elements kept; or, with initial = "uniform", at random in (0, 1), as published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from aurep.activation import HybridActivation
from aurep.search.masks import keep_top, scheduled_count
from aurep.search.policy import Policy
from aurep.search.scores import SaliencyScores


class AutoRepOptions(BaseModel):
    """[search.options] of autorep."""

    model_config = ConfigDict(extra="forbid")

    schedule: Literal["cubic", "penalty"] = "cubic"
    settle: Annotated[float, Field(gt=0, le=1)] = 0.8  # share of the search after which the cubic stands at B
    penalty: Annotated[float, Field(ge=0)] = 80.0  # lambda
    hysteresis: Annotated[float, Field(ge=0)] = 0.003  # t
    alpha_lr: Annotated[float, Field(gt=0)] = 1e-3
    initial: Literal["uniform", "saliency"] = "saliency"
    scoring: Annotated[float, Field(gt=0, lt=1)] = 0.1  # with initial = "saliency"
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9  # of the running scores, likewise


class AutoRep(Policy):
    """See the module docstring."""

    Options: ClassVar[type[BaseModel]] = AutoRepOptions
    scores: SaliencyScores | None = None  # while they are measured

    def start(self) -> None:
        draw = torch.Generator().manual_seed(self.seed)
        for site in self.sites:
            site.alpha.data.copy_(torch.rand(site.shape, generator=draw))
        if self.options.initial == "saliency":
            self.scores = SaliencyScores(self.sites, self.options.decay)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [site.alpha for site in self.sites], "lr": self.options.alpha_lr}]

    def penalty(self) -> Tensor | None:
        if self.scores is not None:
            return self.scores.probe()
        if self.options.schedule != "penalty":
            return None
        kept = torch.stack([_straight_through(site).sum() for site in self.sites]).sum()
        strength: float = self.options.penalty
        return strength * F.relu(kept - self.budget) / self.total

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        start = self.options.scoring if self.options.initial == "saliency" else 0.0
        if self.scores is not None:
            self.scores.update()
            if progress < start:
                return
            self._rank(self.scores)
        t = self.options.hysteresis
        if self.options.schedule == "cubic":
            moved = (progress - start) / (1 - start)
            count = scheduled_count(self.budget, self.total, moved, self.options.settle)
            keep_top(self.sites, [site.alpha + t * (2.0 * site.mask - 1.0) for site in self.sites], count)
            return
        for site in self.sites:
            site.mask.copy_((site.alpha > t) | (site.mask & (site.alpha > -t)))

    @torch.no_grad()
    def _rank(self, scores: SaliencyScores) -> None:
        flat = torch.cat([score.flatten() for score in scores.values])
        ranks = torch.empty_like(flat)
        ranks[torch.argsort(flat, stable=True)] = torch.arange(self.total, device=flat.device, dtype=flat.dtype)
        parts = torch.split((ranks + 0.5) / self.total, [site.mask.numel() for site in self.sites])
        for site, part in zip(self.sites, parts, strict=True):
            site.alpha.copy_(part.view(site.shape))
        scores.close()
        self.scores = None

    def finish(self) -> None:
        if self.scores is not None:
            self._rank(self.scores)
        keep_top(self.sites, [site.alpha.detach() for site in self.sites], self.budget)

    def state_dict(self) -> dict[str, Any]:
        return {"scores": self.scores.state_dict()} if self.scores is not None else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "scores" in state:
            self.scores = SaliencyScores(self.sites, self.options.decay)
            self.scores.load_state_dict(state["scores"])


def _straight_through(site: HybridActivation) -> Tensor:
    """The mask as fp32, with gradient softplus(alpha) towards alpha."""
    slope = F.softplus(site.alpha.detach()) * site.alpha
    return site.mask.float() + slope - slope.detach()
