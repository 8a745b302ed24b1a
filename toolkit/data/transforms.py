"""torchvision's random transforms: of one image before it joins a batch, and of a batch with its labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from aurep.data.augment import Augment
from aurep.data.resize import Interpolation
from aurep.errors import AurepError
from aurep.torchvision import import_torchvision

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageTransform:
    """RandomResizedCrop and RandAugment as `augment` says; picklable, so that it travels to a worker.

    Raises:
        AurepError: torchvision is not installed.
    """

    def __init__(self, augment: Augment, size: tuple[int, int], interpolation: Interpolation) -> None:
        self._given = augment, size, interpolation
        v2, self._steps = _transforms(), []
        modes = import_torchvision("torchvision.transforms").InterpolationMode
        if augment.resized_crop is not None:
            crop = v2.RandomResizedCrop(size, scale=augment.resized_crop, interpolation=modes(interpolation))
            self._steps.append(crop)
        if augment.randaugment is not None:
            operations, strength = augment.randaugment
            self._steps.append(v2.RandAugment(operations, strength, interpolation=modes.BILINEAR))

    def __reduce__(self) -> tuple[Any, ...]:
        """Made anew where it arrives: there, too, torchvision has to be imported with care."""
        return ImageTransform, self._given

    def __call__(self, image: Image) -> Image:
        """`image` changed by torch's random numbers."""
        changed: Any = image
        for step in self._steps:
            changed = step(changed)
        result: Image = changed
        return result


def mix(x: Tensor, y: Tensor, augment: Augment, num_classes: int) -> tuple[Tensor, Tensor]:
    """Each image of the batch (B, C, H, W) with the one before it; labels become probabilities (B, num_classes)."""
    v2, choices = _transforms(), []
    if augment.mixup:
        choices.append(v2.MixUp(alpha=augment.mixup, num_classes=num_classes))
    if augment.cutmix:
        choices.append(v2.CutMix(alpha=augment.cutmix, num_classes=num_classes))
    mixed_x, mixed_y = v2.RandomChoice(choices)(x, y)
    return mixed_x, mixed_y


@contextmanager
def seeded(*parts: int) -> Iterator[None]:
    """torch's random numbers on the CPU from `parts` alone; afterwards they go on as if nothing had been."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1))
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _transforms() -> Any:
    try:
        return import_torchvision("torchvision.transforms.v2")
    except ImportError as error:
        raise AurepError(
            "data.resized_crop, randaugment, mixup and cutmix need torchvision "
            f'({error}); pip install "aurep[imagenet]".'
        ) from error
