"""Telling a student that collapsed from one that is slow to learn, and where its inputs grew.

A student has collapsed where its accuracy is not above chance by three standard deviations of a measurement on n
images, or has less than a tenth of what its teacher is above chance. Chance is the share of the most frequent class.
After too few steps to tell, only inputs that exploded are a verdict, if by then they can no longer come back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from aurep.activation import HybridActivation
from aurep.errors import AurepError

_DEVIATIONS = 3.0
_LEAST_SHARE = 0.1  # of the teacher's gain over chance
_LEAST_STEPS = 100  # running statistics follow within some tens of steps, and rates are still warming up
_GROWN = 1e3  # times what a site's inputs were: no network without normalised powers comes back from there
_HUGE = 2.0**16  # an input of which fp32 holds no more than 7 bits below one


class LargestInputs:
    """The largest |x| that each of `sites` sees inside the block; infinity where one overflowed or was no number."""

    def __init__(self, sites: Sequence[HybridActivation]) -> None:
        self.sites = sites
        self._found = [torch.zeros((), device=site.alpha.device) for site in sites]
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Self:
        self._hooks = [
            site.register_forward_pre_hook(lambda _m, args, k=k: self._see(k, args[0]))
            for k, site in enumerate(self.sites)
        ]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()

    @torch.no_grad()
    def _see(self, k: int, x: Tensor) -> None:
        self._found[k] = torch.maximum(self._found[k], x.abs().amax().float())

    @property
    def values(self) -> dict[str, float]:
        """By site name."""
        found = torch.stack(self._found).nan_to_num(nan=math.inf).tolist() if self._found else []
        return {site.site: value for site, value in zip(self.sites, found, strict=True)}


@dataclass(frozen=True)
class Standard:
    """What a student is held to: the network that it started as.

    Args:
        accuracy: the teacher's, in percent, on the images that the student is measured on.
        chance: percent of the most frequent class among them.
        images: how many they are.
        inputs: the largest |x| at each site of the all-ReLU network.
    """

    accuracy: float
    chance: float
    images: int
    inputs: dict[str, float]

    @property
    def noise(self) -> float:
        """Points that a measurement at chance may be off."""
        share = self.chance / 100
        return _DEVIATIONS * 100 * math.sqrt(share * (1 - share) / self.images)

    def collapsed(self, accuracy: float, steps: int, exploded: bool) -> bool:
        """Whether a student of `accuracy` after `steps` of training, its inputs `exploded` or not, has collapsed."""
        if steps < _LEAST_STEPS and not exploded:
            return False
        if self.accuracy <= self.chance + 2 * self.noise:
            return False  # a teacher near chance is no measure
        return accuracy <= self.chance + max(self.noise, _LEAST_SHARE * (self.accuracy - self.chance))

    @property
    def warning(self) -> str | None:
        """Of a network whose own inputs in evaluation are beyond all measure: a sentence, with the first such site."""
        huge = _huge(self.inputs)
        if huge is None:
            return None
        return (
            f"in evaluation the teacher's own inputs of {huge} reach {self.inputs[huge]:.3g}. Polynomials fitted there "
            "have constants as large, which round like steps: `aurep validate` refuses such a file. Often the running "
            "statistics of the batch norms have not followed the weights; lower baseline.lr or raise baseline.epochs."
        )

    def exploded(self, inputs: dict[str, float]) -> bool:
        """Whether a site's inputs have grown a thousandfold."""
        return any(value > _GROWN * max(self.inputs[name], 1.0) for name, value in inputs.items())

    def beyond_return(self, inputs: dict[str, float], sites: Sequence[HybridActivation]) -> bool:
        """Whether inputs exploded and stay so. Where `sites` train normalised powers an image may do so in evaluation
        only: in training its batch's statistics hold it down, and training goes on.
        """
        return self.exploded(inputs) and all(site.factors is None for site in sites)

    def unanswered(self, phase: str, inputs: dict[str, float]) -> str | None:
        """Of a student that is beyond all measure on some validation image: a sentence, with the first such site; None
        where there is none, or where the teacher is so itself, which `warning` tells.
        """
        huge = _huge(inputs)
        if huge is None or self.warning:
            return None
        return (
            f"on a validation image the inputs of {huge} reach {inputs[huge]:.3g}, where the teacher's reach "
            f"{self.inputs[huge]:.3g}. No answer to such an image is to be trusted, and a network that overflows on "
            f"one of its samples is not exported. Raise {phase}.epochs or {phase}.range_weight, or train on images "
            "like it."
        )

    def verdict(self, phase: str, accuracy: float, inputs: dict[str, float]) -> str:
        """The sentence about a collapsed student: how far it fell, which site's inputs grew, what to change."""
        fell = f"{phase} collapsed: accuracy {accuracy:.2f} % where the teacher has {self.accuracy:.2f} % and chance "
        fell += f"is {self.chance:.2f} %; "
        grown = [name for name, value in inputs.items() if value > 10 * max(self.inputs[name], 1.0)]
        if grown:  # the first in the order of the forward: what comes after it grew with it
            name = grown[0]
            fell += f"the inputs of {name} grew from {self.inputs[name]:.4g} to {inputs[name]:.4g}, and "
            fell += f"{len(grown) - 1} further sites' with them"
        else:
            fell += "no site's inputs grew" if inputs else "without a validation split nobody saw the sites' inputs"
        return (
            f"{fell}. Lower {phase}.lr and {phase}.coefficient_lr, raise {phase}.epochs or {phase}.range_weight, keep "
            f"{phase}.normalise on and {phase}.clip_norm above 0, or allow a larger budget."
        )


def _huge(inputs: dict[str, float]) -> str | None:
    """The first site with an input beyond all measure."""
    return next((name for name, value in inputs.items() if value >= _HUGE), None)


def refuse_at_chance(source: str, accuracy: float, labels: Tensor) -> None:
    """Raises AurepError where a teacher from `source` has no more than chance of the images with these `labels`."""
    found = Standard(accuracy, _chance(labels), labels.numel(), {})
    if accuracy <= found.chance + found.noise:
        raise AurepError(
            f"the teacher {source} is right on {accuracy:.2f} % of {found.images:,} images, where chance is "
            f"{found.chance:.2f} %. Likely it was trained on images normalised by another mean and deviation (set "
            "data.mean and data.std, and data.interpolation where images are resized), on classes in another order, or "
            "on another data set."
        )


def _chance(labels: Tensor) -> float:
    return 100 * int(torch.bincount(labels.flatten()).max()) / labels.numel()


def standard(accuracy: float, labels: Tensor, inputs: LargestInputs) -> Standard:
    """The standard of a teacher with `accuracy` percent on images with these `labels`."""
    return Standard(accuracy, _chance(labels), labels.numel(), inputs.values)
