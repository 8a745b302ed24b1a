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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aurep.data.augment import Draws
from aurep.data.batches import Finish, Plan, check_padding
from aurep.data.encoded import EncodedImages, pixels_of
from aurep.data.images import ImageData, Images, Pixels
from aurep.data.transforms import ImageTransform, seeded
from aurep.errors import AurepError

if TYPE_CHECKING:
    from PIL.Image import Image

_IMAGE = 0  # tells random numbers of an image from those of a step

_AHEAD = 2  # batches that each worker is asked for before they are needed

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
        self._read = _Read(images, transform, cropped, self._plan.seed)
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
        """uint8 (B, C, H, W) of each request, in memory that a later one is written to as soon as it is asked for."""
        workers = min(self._workers, len(requests))
        # One batch is with the caller while the workers have all that they were asked for.
        slots, size = workers * _AHEAD + 1, max((len(images) for _, images, _ in requests), default=0)
        _, channels, height, width = self._read.images.shape
        room = torch.empty(slots, size, height, width, channels, dtype=torch.uint8)
        if workers:
            _share(room)
        batches = DataLoader(
            _Fetch(self._read, room, requests),
            batch_size=None,  # a request is a whole batch
            num_workers=workers,
            prefetch_factor=_AHEAD if workers else None,
            collate_fn=_as_it_is,
            worker_init_fn=_leave_signals,
            generator=torch.Generator(),  # without one it would take a number from the training's
        )
        with warnings.catch_warnings():
            # Python 3.12 and later warn of any fork beside threads. The workers use none of the parent's.
            warnings.simplefilter("ignore", DeprecationWarning)
            started = iter(batches)
        for number, found in enumerate(started):
            if isinstance(found, AurepError):
                raise found
            yield room[number % slots, :found].permute(0, 3, 1, 2)


class _Fetch(Dataset[int | AurepError]):
    """What a worker does: fill a slot of the memory that it shares with the parent with a batch.

    Args:
        read: decodes an image.
        room: uint8 (slots, B, H, W, C), which the requests take in turn: no batch has to be copied on its way, and
            none needs fresh memory, whose pages would be faulted in by worker and parent.
        requests: one a batch.
    """

    def __init__(self, read: _Read, room: Tensor, requests: Sequence[Request]) -> None:
        self._read, self._room, self._requests = read, room, requests

    def __len__(self) -> int:
        return len(self._requests)

    def __getitem__(self, number: int) -> int | AurepError:
        """How many images, or the error, which would otherwise arrive as a text with the worker's traceback."""
        epoch, images, mirrored = self._requests[number]
        batch = self._room[number % len(self._room), : len(images)]
        try:
            for rows, image, mirror in zip(batch, images.tolist(), mirrored.tolist(), strict=True):
                rows.numpy()[:] = self._read(epoch, image).transpose(1, 2, 0)
                if mirror:
                    rows.copy_(rows.flip(1))  # ten times as fast as numpy
        except AurepError as error:
            return error
        return len(images)


@dataclass(frozen=True)
class _Read:
    """Decode an image, crop and resize, change by chance."""

    images: Pixels | Images
    transform: ImageTransform | None
    cropped: bool
    seed: int

    def __call__(self, epoch: int, image: int) -> Pixels:
        if self.transform is None:
            return self._decoded(image)
        if self.cropped and isinstance(self.images, EncodedImages):
            start = self.images.original(image)
        else:
            start = _as_image(self._decoded(image))
        with seeded(self.seed, epoch, _IMAGE, image):
            return pixels_of(self.transform(start))

    def _decoded(self, image: int) -> Pixels:
        images = self.images
        pixels: Pixels = images[image] if isinstance(images, np.ndarray) else images.decode(image)
        return pixels


def _share(room: Tensor) -> None:
    """Move `room` to where workers reach it. Raises AurepError where the system has too little of such memory."""
    try:
        room.share_memory_()
    except RuntimeError as error:
        raise AurepError(
            f"the workers need {room.nbytes / 2**20:,.0f} MiB of shared memory for {len(room)} batches, and the "
            f"system refuses it ({error}); lower data.workers or train.batch_size, or give the container more "
            "(docker run --shm-size)."
        ) from error


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
            copied = pixels.pin_memory().to(device, non_blocking=True)  # pinned, it has left the workers' memory
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
