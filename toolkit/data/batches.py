"""What both loaders share: which images a step shows to which rank, and how pixels become what a network takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aurep.data.augment import Augment, Draws, augment_batch, draw
from aurep.data.transforms import mix, seeded
from aurep.errors import AurepError

_SOME = 2**15 - 1  # numbers that fit a core's cache, and fewer than torch would split among threads
_MIX = 1  # tells random numbers of a step from those of an image


@dataclass(frozen=True)
class Plan:
    """The steps of an epoch.

    Args:
        images: how many there are.
        batch_size: images per step over all ranks.
        train: shuffle, augment and drop the last partial batch. Otherwise: in order, as they are, all of them.
        augment: per-image changes in training.
        seed: with the epoch, decides order and augmentation; at least 0.
        rank: this process, in range(world_size).
        world_size: processes that share each batch. In training `batch_size` must be a multiple of it; the last
            evaluation batch may give a rank fewer images than another, or none.
    """

    images: int
    batch_size: int
    train: bool = False
    augment: Augment | None = None
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise AurepError(f"batch size {self.batch_size} is not positive; set train.batch_size to at least 1.")
        if self.train and self.batch_size > self.images:
            raise AurepError(
                f"batch size {self.batch_size} is above the {self.images} training images; "
                "lower train.batch_size to at most that."
            )
        if not 0 <= self.rank < self.world_size:
            raise AurepError(f"rank {self.rank} is not in range({self.world_size}); expected 0 to world_size - 1.")
        if self.train and self.batch_size % self.world_size:
            raise AurepError(
                f"batch size {self.batch_size} is not a multiple of the {self.world_size} processes; "
                "make train.batch_size one."
            )
        if self.seed < 0:
            raise AurepError(f"seed {self.seed} is negative, expected 0 or more.")
        if not self.train:
            object.__setattr__(self, "augment", None)

    def __len__(self) -> int:
        """Steps per epoch."""
        full, rest = divmod(self.images, self.batch_size)
        return full if self.train else full + (rest > 0)

    @property
    def mixes(self) -> bool:
        return self.augment is not None and self.augment.mixes

    def draws(self, epoch: int) -> Draws:
        return draw(self.images, self.augment, self.seed, epoch, shuffle=self.train)

    def positions(self, step: int) -> slice | Tensor:
        """Where in the epoch's order this rank's images of a step stand.

        Where images are mixed, each with the one before it, a rank of several also needs the one before its first.
        """
        start = step * self.batch_size
        size = min(self.batch_size, self.images - start)
        first, last = (size * part // self.world_size for part in (self.rank, self.rank + 1))
        if self.mixes and self.world_size > 1:
            return start + torch.arange(first - 1, last) % size
        return slice(start + first, start + last)


class Finish:
    """The last part of loading, for a whole batch on its device: crop and flip, normalise, cut out, mix."""

    def __init__(
        self,
        plan: Plan,
        augment: Augment | None,
        mean: Sequence[float],
        std: Sequence[float],
        num_classes: int,
        device: torch.device,
        memory_format: torch.memory_format,
    ) -> None:
        self._plan, self._augment, self._num_classes, self._memory_format = plan, augment, num_classes, memory_format
        self._mean = torch.tensor(mean, dtype=torch.float32, device=device).view(-1, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32, device=device).view(-1, 1, 1)

    def __call__(self, pixels: Tensor, y: Tensor, draws: Draws, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """uint8 (B, C, H, W) and labels (B,) -> float32 x and y, which is (B, num_classes) where images are mixed."""
        x, keep = augment_batch(pixels, self._augment, draws)
        x = self._normalised(x)
        if keep is not None:
            x *= keep
        if self._plan.mixes:
            assert self._augment is not None
            with seeded(self._plan.seed, epoch, _MIX, step):
                x, y = mix(x, y, self._augment, self._num_classes)
            if self._plan.world_size > 1:
                x, y = x[1:], y[1:]
        return x.contiguous(memory_format=self._memory_format), y

    def _normalised(self, x: Tensor) -> Tensor:
        """Always in the order of ImageData.normalise, so that all give the same bits."""
        if x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last):
            return self._normalised_by_rows(x)
        return x.to(torch.float32).div_(255).sub_(self._mean).div_(self._std)

    def _normalised_by_rows(self, x: Tensor) -> Tensor:
        """The same, some rows of pixels at a time, so that what one step wrote is in the cache for the next.

        By one thread: where workers keep all cores busy, several would mostly wait for one another.
        """
        channels, width = x.shape[1], x.shape[3]
        result = torch.empty_like(x, dtype=torch.float32)
        rows, out = (each.permute(0, 2, 3, 1).view(-1, width * channels) for each in (x, result))
        mean, std = (each.flatten().repeat(width) for each in (self._mean, self._std))
        some = max(1, _SOME // (width * channels))
        for source, target in zip(rows.split(some), out.split(some), strict=True):
            target.copy_(source).div_(255).sub_(mean).div_(std)
        return result


def check_padding(augment: Augment | None, height: int, width: int) -> None:
    """Raises AurepError where images are too small to be padded by reflection."""
    if augment is not None and augment.pad >= min(height, width):
        raise AurepError(
            f"a reflected padding of {augment.pad} pixels needs larger images than {height}x{width}; lower data.pad."
        )
