"""Loss terms that baseline, search and finetune are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from aurep.activation import HybridActivation
from aurep.errors import AurepError
from aurep.kernels.eager import per_channel, widen
from aurep.powers import power_statistics
from aurep.training.config import StudentConfig

_IMAGES_SHARE = 4  # one image in so many is looked at for its range
_LEAST_VARIANCE = 1e-5  # that of batch norms: a dead channel has no tails


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

        weight * sum over sites of mean over images of sum over elements of max(0, |x - mean| / sigma - limit)^2

    with mean and sigma of the element's channel. What lies within `limit` deviations is left alone, whatever the site's
    scale, and the gradient grows with the excess no faster than linearly. Images are drawn at random, so the first
    quarter of a batch stands for all of it.

    The idea is PILLAR's (Diaa et al., "Fast and Private Inference of Deep Neural Networks by Co-designing Activation
    Functions", USENIX Security 2024), whose tenth power of the absolute value lets a single outlier decide a step.
    """

    def __init__(self, sites: Sequence[HybridActivation], weight: float, limit: float) -> None:
        self.weight, self.limit = weight, limit
        self._excesses: dict[int, Tensor] = {}  # by site: a checkpointed one runs twice
        self._hooks = [
            site.register_forward_pre_hook(lambda m, args, k=k: self._see(k, m, args[0]))
            for k, site in enumerate(sites)
        ]

    def _see(self, k: int, site: nn.Module, x: Tensor) -> None:
        if site.training:
            assert isinstance(site, HybridActivation)
            x = x[: -(-len(x) // _IMAGES_SHARE)]
            statistics = power_statistics(x.detach(), 1) if site.statistics is None else site.statistics
            mean, variance = statistics[0], statistics[1]
            inverse = torch.rsqrt(variance + _LEAST_VARIANCE)
            self._excesses[k] = _Excess.apply(x, mean, inverse, self.limit)  # type: ignore[no-untyped-call]  # torch's

    def __call__(self) -> Tensor:
        value = self.weight * torch.stack([self._excesses[k] for k in sorted(self._excesses)]).sum()
        self._excesses.clear()
        return value

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


class _Excess(torch.autograd.Function):
    """(z - clamp(z, -limit, limit))^2, z = (x - mean) / sigma, summed over elements, mean over images; saves x alone.

    Mean and sigma are taken as constants: tails shall come in, not deviations go out.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, inverse: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(x, mean, inverse)
        ctx.limit = limit
        return _beyond(x, mean, inverse, limit).square_().sum() / len(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        x, mean, inverse = ctx.saved_tensors
        factor = per_channel(2 / len(x) * grads[0] * inverse, x)
        return _beyond(x, mean, inverse, ctx.limit).mul_(factor).to(x.dtype), None, None, None


def _beyond(x: Tensor, mean: Tensor, inverse: Tensor, limit: float) -> Tensor:
    z = (widen(x) - per_channel(mean, x)).mul_(per_channel(inverse, x))
    return z.sub_(z.clamp(-limit, limit))
