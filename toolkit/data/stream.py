"""Batches of a data set that is larger than memory: processes read, decode and crop ahead of the training.

torch's DataLoader runs the workers. What they are asked for is decided here, before, and what is random about an image
comes from (seed, epoch, image); so batches are the same whatever the number of workers, and the very ones that
`DeviceLoader` makes of the same images in memory.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from aurep.data.augment import Draws
from aurep.data.batches import Finish, Plan, check_padding
from aurep.data.encoded import EncodedImages, pixels_of
from aurep.data.images import ImageData, Images, Pixels
from aurep.data.transforms import ImageTransform, seeded
from aurep.errors import AurepError

if TYPE_CHECKING:
    from PIL.Image import Image

_IMAGE = 0  # tells random numbers of an image from those of a step

Request = tuple[int, NDArray[np.int64], NDArray[np.bool_]]  # epoch, images, whether each is mirrored


class StreamLoader:
    """A `Loader` of images that are fetched as they are needed.

    Args:
        images: uint8 (N, C, H, W), or what reads like it.
        labels: integers (N,).
        mean: per channel, of pixels / 255.
        std: per channel, of pixels / 255, positive.
        batch_size: images per step over all ranks.
        device: where batches are made.
        memory_format: of x, e.g. torch.channels_last.
        num_classes: of mixed labels; needed where images are mixed.
        workers: processes that decode; 0: this one. Default: one a core, shared by the ranks of a machine.
        plan: train, augment, seed, rank and world_size, as `Plan` takes them.

    Raises:
        AurepError: a size, seed or rank out of range, torchvision missing; in an epoch, an image that is damaged.
    """

    def __init__(
        self,
        images: Pixels | Images,
        labels: NDArray[np.int64],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        device: torch.device | str = "cpu",
        memory_format: torch.memory_format = torch.contiguous_format,
        num_classes: int = 0,
        workers: int | None = None,
        **plan: Any,
    ) -> None:
        self._plan, self.device = Plan(len(images), batch_size, **plan), torch.device(device)
        check_padding(self._plan.augment, *images.shape[2:])
        augment, transform = self._plan.augment, None
        if augment is not None and augment.per_image:
            interpolation = images.resize.interpolation if isinstance(images, EncodedImages) else "bilinear"
            transform = ImageTransform(augment, (images.shape[2], images.shape[3]), interpolation)
        cropped = augment is not None and augment.resized_crop is not None
        self._fetch = _Fetch(images, transform, cropped, self._plan.seed)
        self._labels = torch.from_numpy(np.asarray(labels, np.int64))
        # Workers mirror for nothing; but out of a padded image the window is cut first.
        self._mirrors = augment is not None and augment.flip and not augment.pad
        left = replace(augment, flip=False) if augment is not None and self._mirrors else augment
        self._finish = Finish(self._plan, left, mean, std, num_classes, self.device, memory_format)
        self._workers = _cores() if workers is None else workers

    @classmethod
    def for_split(cls, data: ImageData, split: str, **options: Any) -> StreamLoader:
        """The loader of `data`'s "train", "val" or "test" split; "train" trains unless told `train=False`."""
        images, labels = getattr(data, f"x_{split}"), getattr(data, f"y_{split}")
        options.setdefault("train", split == "train")
        return cls(images, labels, mean=data.mean, std=data.std, num_classes=data.num_classes, **options)

    @property
    def batch_size(self) -> int:
        return self._plan.batch_size

    def __len__(self) -> int:
        """Steps per epoch."""
        return len(self._plan)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's part of every batch of `epoch`, from `start_step` on."""
        draws = self._plan.draws(epoch)
        steps = range(start_step, len(self))
        requests = [self._request(epoch, draws[self._plan.positions(step)]) for step in steps]
        for step, pixels in zip(steps, _on_device(self._fetched(requests), self.device), strict=True):
            drawn = draws[self._plan.positions(step)]
            y = self._labels[drawn.order].to(self.device, non_blocking=True)
            yield self._finish(pixels, y, drawn.to(self.device), epoch, step)

    def _request(self, epoch: int, draws: Draws) -> Request:
        order = draws.order.numpy()
        return epoch, order, draws.flip.numpy() if self._mirrors else np.zeros(len(order), bool)

    def _fetched(self, requests: Sequence[Request]) -> Iterator[Tensor]:
        batches = DataLoader(
            self._fetch,
            batch_size=None,  # a request is a whole batch
            sampler=requests,
            num_workers=min(self._workers, len(requests)),
            collate_fn=_as_it_is,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_leave_signals,
            generator=torch.Generator(),  # without one it would take a number from the training's
        )
        with warnings.catch_warnings():
            # Python 3.12 and later warn of any fork beside threads. The workers use none of the parent's.
            warnings.simplefilter("ignore", DeprecationWarning)
            started = iter(batches)
        for pixels in started:
            if isinstance(pixels, AurepError):
                raise pixels
            yield pixels


class _Fetch(Dataset[Tensor]):
    """What a worker does: decode, crop and resize, change by chance."""

    def __init__(self, images: Pixels | Images, transform: ImageTransform | None, cropped: bool, seed: int) -> None:
        self._images, self._transform, self._cropped, self._seed = images, transform, cropped, seed

    def __getitem__(self, request: Request) -> Tensor | AurepError:  # type: ignore[override]  # as DataLoader has it
        """uint8 (B, C, H, W), or the error, which would otherwise arrive as a text with the worker's traceback."""
        epoch, chosen, mirrored = request
        batch = []
        try:
            for image, mirror in zip(chosen.tolist(), mirrored.tolist(), strict=True):
                rows = self._pixels(epoch, image).transpose(1, 2, 0)
                batch.append(torch.from_numpy(np.array(rows[:, ::-1] if mirror else rows, order="C")))
        except AurepError as error:
            return error
        stacked: Tensor = default_collate(batch)  # in memory that the parent shares
        return stacked.permute(0, 3, 1, 2)

    def _pixels(self, epoch: int, image: int) -> Pixels:
        if self._transform is None:
            return self._decoded(image)
        if self._cropped and isinstance(self._images, EncodedImages):
            start = self._images.original(image)
        else:
            start = _as_image(self._decoded(image))
        with seeded(self._seed, epoch, _IMAGE, image):
            return pixels_of(self._transform(start))

    def _decoded(self, image: int) -> Pixels:
        images = self._images
        pixels: Pixels = images[image] if isinstance(images, np.ndarray) else images.decode(image)
        return pixels


def _as_image(pixels: Pixels) -> Image:
    from PIL import Image

    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _on_device(batches: Iterator[Tensor], device: torch.device) -> Iterator[Tensor]:
    """`batches` on `device`; on a GPU each is copied beside the step before it, on a stream of its own."""
    if device.type != "cuda":
        yield from batches
        return
    side, waiting = torch.cuda.Stream(device), None
    for pixels in batches:
        with torch.cuda.stream(side):
            copied = pixels.to(device, non_blocking=True)
        if waiting is not None:
            yield _arrived(*waiting)
        waiting = copied, side.record_event()
    if waiting is not None:
        yield _arrived(*waiting)


def _arrived(copied: Tensor, done: torch.cuda.Event) -> Tensor:
    current = torch.cuda.current_stream(copied.device)
    current.wait_event(done)
    copied.record_stream(current)  # its memory is not given to the next copy before this step is through
    return copied


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals(_worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the parent ends its workers when it has written its checkpoint."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
