"""What any search must beat: `random`, `uniform` and `layerwise`.

All three follow the cubic schedule that `saliency` follows, so that what they differ in is the selection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from aurep.activation import HybridActivation
from aurep.search.masks import keep_top, scheduled_count
from aurep.search.policy import Policy
from aurep.search.scores import SaliencyScores
from aurep.search.shares import water_fill


class ScheduleOptions(BaseModel):
    """[search.options] of random and uniform."""

    model_config = ConfigDict(extra="forbid")

    settle: Annotated[float, Field(gt=0, le=1)] = 0.8  # share of the search after which the cubic stands at B


class Random(Policy):
    """Elements drawn at random over the whole network: in a fixed random order, the first K(progress) are kept."""

    Options: ClassVar[type[BaseModel]] = ScheduleOptions

    def __init__(
        self, sites: Sequence[HybridActivation], budget: int, options: ScheduleOptions, seed: int, *, steps: int
    ) -> None:
        super().__init__(sites, budget, options, seed, steps=steps)
        draw = torch.Generator().manual_seed(seed)
        self.order = [torch.rand(site.shape, generator=draw).to(site.mask.device) for site in sites]

    def after_step(self, progress: float) -> None:
        self._keep(scheduled_count(self.budget, self.total, progress, self.options.settle))

    def finish(self) -> None:
        self._keep(self.budget)

    def _keep(self, count: int) -> None:
        keep_top(self.sites, self.order, count)


class Uniform(Random):
    """The same share of every layer, B c_l / N of its c_l elements (whole elements by largest remainder), at random."""

    def _keep(self, count: int) -> None:
        capacities = [site.mask.numel() for site in self.sites]
        shares = water_fill(capacities, capacities, count)
        for site, order, share in zip(self.sites, self.order, shares, strict=True):
            keep_top([site], [order], share)


class LayerwiseOptions(ScheduleOptions):
    """[search.options] of layerwise."""

    keep: Literal["sensitive", "late", "early"] = "sensitive"  # which layers are kept first
    scoring: Annotated[float, Field(gt=0, lt=1)] = 0.1  # share of the search that measures sensitivity, all kept
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9  # weight of the past in the running scores


class Layerwise(Policy):
    """Layers keep all their ReLUs or none, as in Jha et al., "DeepReDuce: ReLU Reduction for Fast Private Inference",
    ICML 2021.

    In the order of `keep`, each layer that still fits into the budget is kept whole. The count can so stay below the
    budget, never above. "sensitive" orders layers by their mean saliency per element (see `aurep.search.scores`),
    measured over the first `scoring` of the search with all kept.
    """

    Options: ClassVar[type[BaseModel]] = LayerwiseOptions

    def __init__(
        self, sites: Sequence[HybridActivation], budget: int, options: LayerwiseOptions, seed: int, *, steps: int
    ) -> None:
        super().__init__(sites, budget, options, seed, steps=steps)
        early_first = list(range(len(sites)))
        self.order = early_first if options.keep == "early" else early_first[::-1]
        self.scores: SaliencyScores | None = None  # while they are measured

    def start(self) -> None:
        if self.options.keep == "sensitive":
            self.scores = SaliencyScores(self.sites, self.options.decay)

    def penalty(self) -> Tensor | None:
        return self.scores.probe() if self.scores is not None else None

    def after_step(self, progress: float) -> None:
        start = self.options.scoring if self.options.keep == "sensitive" else 0.0
        if self.scores is not None:
            self.scores.update()
            if progress < start:
                return
            self._rank(self.scores)
        moved = (progress - start) / (1 - start)
        self._keep(scheduled_count(self.budget, self.total, moved, self.options.settle))

    def _rank(self, scores: SaliencyScores) -> None:
        means = [float(score.mean()) for score in scores.values]
        self.order = sorted(self.order, key=lambda layer: means[layer], reverse=True)
        scores.close()
        self.scores = None

    def _keep(self, count: int) -> None:
        for layer in self.order:
            size = self.sites[layer].mask.numel()
            self.sites[layer].mask.fill_(size <= count)
            count -= size if size <= count else 0

    def finish(self) -> None:
        if self.scores is not None:
            self._rank(self.scores)
        self._keep(self.budget)

    def state_dict(self) -> dict[str, Any]:
        return {"order": self.order, "scores": self.scores.state_dict() if self.scores is not None else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.order = list(state["order"])
        if state["scores"] is not None:
            self.scores = SaliencyScores(self.sites, self.options.decay)
            self.scores.load_state_dict(state["scores"])
