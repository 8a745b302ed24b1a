"""Saliency: the elements whose ReLU the loss would miss most stay, by a score that needs no indicator parameters.

Every step scores every element to second order against its own polynomial (see `aurep.search.scores`), and keeps
exactly the top K(progress) over the whole network, K falling on a cubic from all N to the budget B. Scores of replaced
elements go on, so one that recovers comes back. This method is aurep's own.

Layers differ in the scale of their scores. With the exponent `equalise` = p, those of layer l are multiplied by

    w_l = (mean over the layer of |s|)^-p

0 compares scores as they are; 1 makes all layers equal on average.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from aurep.search.masks import keep_top, scheduled_count
from aurep.search.policy import Policy
from aurep.search.scores import SaliencyScores

_LEAST_SCORE = 1e-20  # keeps the weight of a layer without any score finite


class SaliencyOptions(BaseModel):
    """[search.options] of saliency."""

    model_config = ConfigDict(extra="forbid")

    settle: Annotated[float, Field(gt=0, le=1)] = 0.8  # share of the search after which the cubic stands at B
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99  # weight of the past in the running scores
    equalise: Annotated[float, Field(ge=0, le=1)] = 0.0  # p
    restore: bool = True  # let replaced elements come back


class Saliency(Policy):
    """See the module docstring."""

    Options: ClassVar[type[BaseModel]] = SaliencyOptions
    scores: SaliencyScores  # once started

    def start(self) -> None:
        self.scores = SaliencyScores(self.sites, self.options.decay)

    def penalty(self) -> Tensor:
        return self.scores.probe()

    def after_step(self, progress: float) -> None:
        self.scores.update()
        self._keep(scheduled_count(self.budget, self.total, progress, self.options.settle))

    def _keep(self, count: int) -> None:
        weighted = [equalised(score, self.options.equalise) for score in self.scores.values]
        if not self.options.restore:
            weighted = [
                torch.where(site.mask, score, -torch.inf) for site, score in zip(self.sites, weighted, strict=True)
            ]
        keep_top(self.sites, weighted, count)

    def finish(self) -> None:
        self._keep(self.budget)
        self.scores.close()

    def state_dict(self) -> dict[str, Any]:
        return self.scores.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.start()
        self.scores.load_state_dict(state)


def equalised(score: Tensor, exponent: float) -> Tensor:
    """`score` of one layer times its weight w_l."""
    return score * score.abs().mean().clamp_min(_LEAST_SCORE) ** -exponent if exponent else score
