"""Bring images to the network's input size, by Pillow's filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from aurep.data.images import Pixels
from aurep.errors import AurepError

if TYPE_CHECKING:
    from PIL.Image import Image

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class Resize:
    """How an image comes to its size. Every image that is seen in evaluation, and what training starts from.

    Args:
        size: (height, width) in pixels; None: the images' own, which must then be the same for all.
        interpolation: Pillow's filter.
        crop_pct: None stretches the image to `size`, whatever its shape. A share in (0, 1] keeps its shape: it is
            scaled until it just covers `size` / crop_pct, then its centre is cut out, as ImageNet is evaluated.
    """

    size: tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"
    crop_pct: float | None = None

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 1:
            raise AurepError(f"input_size is {list(self.size)}, expected positive numbers of pixels.")
        if self.interpolation not in get_args(Interpolation):
            raise AurepError(
                f"interpolation {self.interpolation!r} is unknown; expected {', '.join(get_args(Interpolation))}."
            )
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise AurepError(f"crop_pct is {self.crop_pct}, expected a share in (0, 1].")

    def to(self, size: tuple[int, int]) -> Resize:
        """The same with `size` where none was given."""
        return self if self.size is not None else replace(self, size=size)

    def changes(self, size: tuple[int, int]) -> bool:
        """Whether an image of `size` (height, width) becomes another."""
        return self.crop_pct is not None or self.size not in (None, size)

    def __call__(self, image: Image) -> Image:
        """`image` at its size; it must be in a mode that Pillow can interpolate (no palette)."""
        from PIL.Image import Resampling

        width, height = image.size
        if self.size is None or not self.changes((height, width)):
            return image
        scaled = self.size if self.crop_pct is None else _covering((height, width), self.size, self.crop_pct)
        image = image.resize(scaled[::-1], Resampling[self.interpolation.upper()])
        if scaled == self.size:
            return image
        # Rounded as torchvision's CenterCrop does.
        top, left = (round((have - want) / 2) for have, want in zip(scaled, self.size, strict=True))
        return image.crop((left, top, left + self.size[1], top + self.size[0]))


AS_THEY_ARE = Resize()


def image_size(value: int | Sequence[int] | None) -> tuple[int, int] | None:
    """(height, width) of an `input_size`: one number for both, or the two. Raises AurepError for another count."""
    if value is None:
        return None
    sides = (value, value) if isinstance(value, int) else tuple(value)
    if len(sides) != 2:
        raise AurepError(f"input_size is {list(sides)}, expected one number of pixels, or height and width.")
    return int(sides[0]), int(sides[1])


def _covering(size: tuple[int, int], wanted: tuple[int, int], crop_pct: float) -> tuple[int, int]:
    """The smallest (height, width) of `size`'s proportions that covers `wanted` / crop_pct, as torchvision rounds."""
    height, width = size
    least_height, least_width = (int(side / crop_pct) for side in wanted)
    if least_height * width >= least_width * height:
        return least_height, max(least_width, int(least_height * width / height))
    return max(least_height, int(least_width * height / width)), least_width


def resize_images(x: Pixels, resize: Resize) -> Pixels:
    """uint8 (N, C, H, W) in memory, each plane of each image as `resize` says."""
    height, width = x.shape[2:]
    resize = resize.to((height, width))
    assert resize.size is not None
    if not resize.changes((height, width)):
        return x
    from PIL import Image

    out = np.empty((*x.shape[:2], *resize.size), np.uint8)
    for i, image in enumerate(x):
        for c, plane in enumerate(image):
            out[i, c] = np.asarray(resize(Image.fromarray(plane)))
    return out
