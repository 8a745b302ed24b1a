"""Batches from a data set that sits on the training device as uint8.

Order and augmentation of an epoch are drawn at its start from (seed, epoch) alone, one set of parameters for each
position in the epoch. So a step is a pure function of (seed, epoch, step): a run resumed anywhere sees the batches it
would have seen, and each rank of a distributed run takes its slice of the very batch that one process would see.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aurep.data.augment import Augment, Draws, augment_batch, draw
from aurep.data.images import ImageData
from aurep.errors import AurepError

__all__ = ["Augment", "DeviceLoader"]

# Share of the device's free memory that the data set may take; above it, it stays in the host's memory.
_DEVICE_SHARE = 0.5


class DeviceLoader:
    """Iterate over normalised batches (x float32 (B, C, H, W), y int64 (B,)) on `device`.

    Args:
        images: uint8 (N, C, H, W); never written to.
        labels: integers (N,).
        mean: per channel, of pixels / 255.
        std: per channel, of pixels / 255, positive.
        batch_size: images per step over all ranks.
        device: where batches are made; the data set moves there too if it takes at most half of the free memory.
        train: shuffle, augment and drop the last partial batch. Otherwise: in order, as they are, all of them.
        augment: per-image changes in training.
        seed: with the epoch, decides order and augmentation; at least 0.
        rank: this process, in range(world_size).
        world_size: processes that share each batch. In training `batch_size` must be a multiple of it; the last
            evaluation batch may give a rank fewer images than another, or none.
        memory_format: of x, e.g. torch.channels_last.

    Raises:
        AurepError: a size, seed or rank out of range, a padding that the images are too small for.
    """

    def __init__(
        self,
        images: Tensor | np.ndarray[Any, Any],
        labels: Tensor | np.ndarray[Any, Any],
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        batch_size: int,
        device: torch.device | str = "cpu",
        train: bool = False,
        augment: Augment | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        _check(len(images), tuple(images.shape), batch_size, train, augment, seed, rank, world_size)
        self.device = torch.device(device)
        self.batch_size, self.train, self.seed = batch_size, train, seed
        self.augment = augment if train else None
        self.rank, self.world_size = rank, world_size
        self._memory_format = memory_format
        pixels = torch.from_numpy(np.require(images, requirements="W")) if isinstance(images, np.ndarray) else images
        self._images = pixels.to(_storage(pixels, self.device))
        self._labels = torch.as_tensor(labels).to(self.device, torch.int64)
        self._mean = torch.tensor(mean, dtype=torch.float32, device=self.device).view(-1, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32, device=self.device).view(-1, 1, 1)

    @classmethod
    def for_split(cls, data: ImageData, split: str, **options: Any) -> DeviceLoader:
        """The loader of `data`'s "train", "val" or "test" split; "train" trains unless told `train=False`."""
        images, labels = getattr(data, f"x_{split}"), getattr(data, f"y_{split}")
        options.setdefault("train", split == "train")
        return cls(images, labels, mean=data.mean, std=data.std, **options)

    def __len__(self) -> int:
        """Steps per epoch."""
        full, rest = divmod(len(self._labels), self.batch_size)
        return full if self.train else full + (rest > 0)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's part of every batch of `epoch`, from `start_step` on."""
        draws = draw(len(self._labels), self.augment, self.seed, epoch, shuffle=self.train).to(self.device)
        for step in range(start_step, len(self)):
            yield self._batch(draws[self._positions(step)])

    def _positions(self, step: int) -> slice:
        start = step * self.batch_size
        size = min(self.batch_size, len(self._labels) - start)
        first, last = (start + size * part // self.world_size for part in (self.rank, self.rank + 1))
        return slice(first, last)

    def _batch(self, draws: Draws) -> tuple[Tensor, Tensor]:
        chosen = draws.order.to(self._images.device)
        pixels = self._images.index_select(0, chosen).to(self.device, non_blocking=True)
        x, keep = augment_batch(pixels, self.augment, draws)
        # In the order of ImageData.normalise, so that both give the same bits.
        x_float = x.to(torch.float32).div_(255).sub_(self._mean).div_(self._std)
        if keep is not None:
            x_float *= keep
        return x_float.contiguous(memory_format=self._memory_format), self._labels.index_select(0, draws.order)


def _storage(pixels: Tensor, device: torch.device) -> torch.device:
    if device.type != "cuda":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    return device if pixels.numel() <= _DEVICE_SHARE * free else torch.device("cpu")


def _check(
    images: int,
    shape: tuple[int, ...],
    batch_size: int,
    train: bool,
    augment: Augment | None,
    seed: int,
    rank: int,
    world_size: int,
) -> None:
    if batch_size < 1:
        raise AurepError(f"batch size {batch_size} is not positive; set train.batch_size to at least 1.")
    if train and batch_size > images:
        raise AurepError(
            f"batch size {batch_size} is above the {images} training images; lower train.batch_size to at most that."
        )
    if not 0 <= rank < world_size:
        raise AurepError(f"rank {rank} is not in range({world_size}); expected 0 to world_size - 1.")
    if train and batch_size % world_size:
        raise AurepError(
            f"batch size {batch_size} is not a multiple of the {world_size} processes; make train.batch_size one."
        )
    if seed < 0:
        raise AurepError(f"seed {seed} is negative, expected 0 or more.")
    if augment is not None and augment.padding == "reflect" and augment.pad >= min(shape[2:]):
        raise AurepError(
            f"a reflected padding of {augment.pad} pixels needs larger images than {shape[2]}x{shape[3]}; "
            "lower data.crop."
        )
