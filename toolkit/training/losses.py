"""Loss terms that baseline, search and finetune are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aurep.activation import HybridActivation
from aurep.errors import AurepError
from aurep.training.config import StudentConfig


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of logits (N, classes) softened by `temperature`, mean over the batch, times T^2.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.
    """
    log_student = F.log_softmax(student.float() / temperature, 1)
    log_teacher = F.log_softmax(teacher.float() / temperature, 1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


class LossTerm(Protocol):
    """A term of a step's loss that hooks gather while the student, and then the teacher, run."""

    def __call__(self) -> Tensor:
        """The step's value; called once per step."""

    def close(self) -> None:
        """Remove the hooks."""


def student_terms(
    config: StudentConfig, sites: Sequence[HybridActivation], activations: Sequence[nn.Module]
) -> list[LossTerm]:
    """The terms that `config` gives a weight. `activations`: modules whose outputs are the teacher's, site by site."""
    terms: list[LossTerm] = []
    if config.pram_weight:
        terms.append(Pram(sites, activations, config.pram_weight))
    if config.range_weight:
        terms.append(RangePenalty(sites, config.range_weight, config.range_limit))
    return terms


def attention_map(activation: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H * W): the mean over channels of the squares, scaled to unit length per image."""
    return F.normalize(activation.float().square().mean(1).flatten(1), dim=1)


def stage_outputs(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """The last site of every resolution, among those of shape (C, H, W): where a stage hands over to the next."""
    last = {shape[1:]: number for number, shape in enumerate(shapes) if len(shape) == 3}
    return sorted(last.values())


class Pram:
    """Post-ReLU activation mismatch: the student's attention maps shall be the teacher's at every stage's output.

        weight * sum over stages of mean over images and positions of (A(student) - A(teacher))^2

    with A the `attention_map`. It is the squared L2 distance of the unit maps over their number of positions, the scale
    that the published weight of 1000 is made for.

    Source: Kundu et al. (SENet), ICLR 2023, after Zagoruyko and Komodakis, "Paying More Attention to Attention",
    ICLR 2017.
    """

    def __init__(self, sites: Sequence[HybridActivation], activations: Sequence[nn.Module], weight: float) -> None:
        self.weight = weight
        self._stages = stage_outputs([site.shape for site in sites])
        if not self._stages:
            raise AurepError(
                "pram_weight compares maps of shape (C, H, W), and no site has one; set it to 0 for this model."
            )
        self._student: dict[int, Tensor] = {}
        self._teacher: dict[int, Tensor] = {}
        self._hooks = [
            sites[k].register_forward_hook(lambda m, _, y, k=k: self._see(k, m, y, self._student)) for k in self._stages
        ] + [
            activations[k].register_forward_hook(lambda _m, _, y, k=k: self._see(k, sites[k], y, self._teacher))
            for k in self._stages
        ]

    def _see(self, k: int, site: nn.Module, output: Tensor, maps: dict[int, Tensor]) -> None:
        if site.training:  # validation runs through the same modules
            maps[k] = attention_map(output)

    def __call__(self) -> Tensor:
        distances = [F.mse_loss(self._student[k], self._teacher[k]) for k in self._stages]
        self._student.clear()
        self._teacher.clear()
        return self.weight * torch.stack(distances).sum()

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


class RangePenalty:
    """Keeps the tails of sites' inputs short: for the polynomials, which square them, and for fixed-point arithmetic.

        weight * sum over sites of log(1 + their excess over `limit` deviations)        (see `aurep.tails`)

    What lies within is left alone, whatever the site's scale. An outlier's excess is squared from site to site; its
    logarithm only doubles, so that the site where it begins has a say in the gradient beside those where it ends.

    The idea is PILLAR's (Diaa et al., "Fast and Private Inference of Deep Neural Networks by Co-designing Activation
    Functions", USENIX Security 2024), whose tenth power of the absolute value lets a single outlier decide a step.
    """

    def __init__(self, sites: Sequence[HybridActivation], weight: float, limit: float) -> None:
        self.weight, self._sites = weight, sites
        for site in sites:
            site.limit = limit

    def __call__(self) -> Tensor:
        return self.weight * torch.stack([site.take_excess() for site in self._sites]).log1p().sum()

    def close(self) -> None:
        for site in self._sites:
            site.limit = 0.0
