"""Batches from a data set: `make_loader` chooses between one that sits on the training device and one that streams.

Order and augmentation of an epoch are drawn at its start from (seed, epoch) alone, one set of parameters for each
position in the epoch, and whatever else is random from (seed, epoch) and the image's number. So a step is a pure
function of (seed, epoch, step): a run resumed anywhere sees the batches it would have seen, and each rank of a
distributed run takes its slice of the very batch that one process would see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from aurep.data.augment import Augment, Draws
from aurep.data.batches import Finish, Plan, check_padding
from aurep.data.images import ImageData

__all__ = ["Augment", "DeviceLoader", "Loader", "make_loader"]

# Share of the device's free memory that the data set may take; above it, it stays in the host's memory.
_DEVICE_SHARE = 0.5


class Loader(Protocol):
    """Normalised batches: x float32 (B, C, H, W); y int64 (B,), or, of mixed images, probabilities (B, classes)."""

    @property
    def batch_size(self) -> int:
        """Images per step over all ranks."""
        ...

    def __len__(self) -> int:
        """Steps per epoch."""
        ...

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's part of every batch of `epoch`, from `start_step` on."""
        ...


def make_loader(data: ImageData, split: str, *, workers: int | None = None, **options: Any) -> Loader:
    """The loader of `data`'s "train", "val" or "test" split.

    Args:
        data: a data set.
        split: "train" trains unless told `train=False`.
        workers: processes that decode, where the set is streamed. Default: one a core.
        options: as `DeviceLoader` takes them, from `batch_size` on.
    """
    from aurep.data.stream import StreamLoader

    augment = options.get("augment")
    options.setdefault("train", split == "train")
    if data.streamed or (options["train"] and augment is not None and augment.per_image):
        return StreamLoader.for_split(data, split, workers=workers, **options)
    return DeviceLoader.for_split(data, split, **options)


class DeviceLoader:
    """A `Loader` of a data set that sits on `device` as uint8.

    Args:
        images: uint8 (N, C, H, W); never written to.
        labels: integers (N,).
        mean: per channel, of pixels / 255.
        std: per channel, of pixels / 255, positive.
        batch_size: images per step over all ranks.
        device: where batches are made; the data set moves there too if it takes at most half of the free memory.
        memory_format: of x, e.g. torch.channels_last.
        num_classes: of mixed labels; needed where images are mixed.
        plan: train, augment, seed, rank and world_size, as `Plan` takes them.

    Raises:
        AurepError: a size, seed or rank out of range, a padding that the images are too small for.
    """

    def __init__(
        self,
        images: Tensor | np.ndarray[Any, Any],
        labels: Tensor | np.ndarray[Any, Any],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        device: torch.device | str = "cpu",
        memory_format: torch.memory_format = torch.contiguous_format,
        num_classes: int = 0,
        **plan: Any,
    ) -> None:
        self._plan, self.device = Plan(len(images), batch_size, **plan), torch.device(device)
        check_padding(self._plan.augment, *images.shape[2:])
        pixels = torch.from_numpy(np.require(images, requirements="W")) if isinstance(images, np.ndarray) else images
        self._images = pixels.to(_storage(pixels, self.device))
        self._labels = torch.as_tensor(labels).to(self.device, torch.int64)
        self._finish = Finish(self._plan, self._plan.augment, mean, std, num_classes, self.device, memory_format)

    @classmethod
    def for_split(cls, data: ImageData, split: str, **options: Any) -> DeviceLoader:
        """The loader of `data`'s "train", "val" or "test" split; "train" trains unless told `train=False`."""
        images, labels = getattr(data, f"x_{split}"), getattr(data, f"y_{split}")
        options.setdefault("train", split == "train")
        return cls(images, labels, mean=data.mean, std=data.std, num_classes=data.num_classes, **options)

    @property
    def batch_size(self) -> int:
        return self._plan.batch_size

    @property
    def train(self) -> bool:
        return self._plan.train

    def __len__(self) -> int:
        """Steps per epoch."""
        return len(self._plan)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's part of every batch of `epoch`, from `start_step` on."""
        draws = self._plan.draws(epoch).to(self.device)
        for step in range(start_step, len(self)):
            yield self._batch(draws[self._plan.positions(step)], epoch, step)

    def _batch(self, draws: Draws, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        chosen = draws.order.to(self._images.device)
        pixels = self._images.index_select(0, chosen).to(self.device, non_blocking=True)
        return self._finish(pixels, self._labels.index_select(0, draws.order), draws, epoch, step)


def _storage(pixels: Tensor, device: torch.device) -> torch.device:
    if device.type != "cuda":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    return device if pixels.numel() <= _DEVICE_SHARE * free else torch.device("cpu")
