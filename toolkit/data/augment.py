"""What may happen to training images; and crop, flip and cutout for a whole batch at once, each image its own way.

A shifted crop of a padded image is the image read at shifted row and column numbers; a flip is the columns read
backwards. So padding is never built: row and column numbers are computed per image, then gathered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from aurep.errors import AurepError


@dataclass(frozen=True)
class Augment:
    """What may happen to a training image, in this order.

    Args:
        resized_crop: the least and the largest share of the image's area that a random rectangle, of sides 3:4 to
            4:3, cuts out before it is resized; in place of `pad`.
        randaugment: how many of RandAugment's operations each image gets, and how strong they are, 0 to 30.
        pad: pixels of reflection on each side, out of which a window of the image's size is cropped at random; 0: none.
        flip: mirror left-right, each image by a fair coin in each epoch.
        alternating: the coin is thrown once per image, and the image mirrored in every second epoch after: over two
            epochs each image is seen both ways.
        cutout: side of a square that is replaced by the data set's mean colour; its centre is anywhere in the image,
            so that it may stick out; 0: none.
        mixup: alpha of the Beta distribution by which two images and their labels are averaged; 0: none.
        cutmix: the same for a rectangle of one pasted into the other. With both, each batch gets one by a fair coin.
    """

    resized_crop: tuple[float, float] | None = None
    randaugment: tuple[int, int] | None = None
    pad: int = 4
    flip: bool = True
    alternating: bool = False
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if self.resized_crop is not None:
            object.__setattr__(self, "pad", 0)
            if not 0 < self.resized_crop[0] <= self.resized_crop[1] <= 1:
                raise AurepError(f"resized_crop is {list(self.resized_crop)}, expected two rising shares in (0, 1].")
        if self.randaugment is not None and not (self.randaugment[0] >= 1 and 0 <= self.randaugment[1] <= 30):
            raise AurepError(
                f"randaugment is {list(self.randaugment)}, expected operations per image (1 or more) and a strength of "
                "0 to 30, such as [2, 9]."
            )
        if self.mixup < 0 or self.cutmix < 0:
            raise AurepError(f"mixup {self.mixup}, cutmix {self.cutmix}: expected 0 or more each.")
        if self.pad < 0 or self.cutout < 0:
            raise AurepError(f"augmentation pad {self.pad}, cutout {self.cutout}: expected 0 or more pixels each.")

    @property
    def per_image(self) -> bool:
        """Whether images are changed one by one, by torchvision, before they form a batch."""
        return self.resized_crop is not None or self.randaugment is not None

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True)
class Draws:
    """An epoch's random numbers, one per position: the image's index, crop offsets, flip, cutout centre in [0, 1)."""

    order: Tensor  # int64
    top: Tensor  # int64, in [0, 2 pad]
    left: Tensor  # int64, in [0, 2 pad]
    flip: Tensor  # bool
    centre: Tensor  # float32 (positions, 2)

    def to(self, device: torch.device) -> Draws:
        return Draws(*(part.to(device) for part in vars(self).values()))

    def __getitem__(self, positions: slice | Tensor) -> Draws:
        return Draws(*(part[positions] for part in vars(self).values()))


def draw(images: int, augment: Augment | None, seed: int, epoch: int, *, shuffle: bool) -> Draws:
    """The draws of one epoch, on the CPU so that every device sees the same ones."""
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(images) if shuffle else np.arange(images)
    pad = augment.pad if augment else 0
    top, left = random.integers(0, 2 * pad + 1, (2, images))
    flip = random.random(images) < 0.5
    if augment and augment.alternating:
        flip = np.random.default_rng((seed,)).random(images)[order] < 0.5
        flip = flip ^ bool(epoch % 2)
    centre = random.random((images, 2), np.float32)
    return Draws(*(torch.from_numpy(np.ascontiguousarray(part)) for part in (order, top, left, flip, centre)))


def augment_batch(x: Tensor, augment: Augment | None, draws: Draws) -> tuple[Tensor, Tensor | None]:
    """Crop and flip uint8 (B, C, H, W), and say where cutout leaves pixels.

    Returns:
        the images, and float32 (B, 1, H, W), 1 where a pixel stays and 0 where it is cut out (None without cutout).
    """
    if augment is None:
        return x, None
    if augment.pad or augment.flip:
        x = _crop_and_flip(x, augment, draws)
    return x, _outside_cutout(x, augment.cutout, draws.centre) if augment.cutout else None


def _crop_and_flip(x: Tensor, augment: Augment, draws: Draws) -> Tensor:
    batch, channels, height, width = x.shape
    rows = torch.arange(height, device=x.device) + (draws.top - augment.pad)[:, None]
    columns = torch.arange(width, device=x.device).expand(batch, width)
    if augment.flip:
        columns = torch.where(draws.flip[:, None], columns.flip(1), columns)
    columns = columns + (draws.left - augment.pad)[:, None]
    rows, columns = _reflect(rows, height), _reflect(columns, width)
    # Whole rows first, by their number among all rows of the batch: that copies, and only columns are gathered.
    plane = torch.arange(batch * channels, device=x.device).view(batch, channels, 1) * height
    x = x.reshape(-1, width).index_select(0, (plane + rows[:, None]).flatten()).view(x.shape)
    return x.gather(3, columns[:, None, None].expand(batch, channels, height, width))


def _reflect(index: Tensor, size: int) -> Tensor:
    return size - 1 - (size - 1 - index.abs()).abs()


def _outside_cutout(x: Tensor, side: int, centre: Tensor) -> Tensor:
    hidden = []
    for axis, size in enumerate(x.shape[2:]):
        start = (centre[:, axis] * size).long()[:, None] - side // 2
        position = torch.arange(size, device=x.device)
        hidden.append((position >= start) & (position < start + side))
    return (~(hidden[0][:, None, :, None] & hidden[1][:, None, None, :])).to(torch.float32)
