"""An image data set, split three ways: what every reader gives and every user of data takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aurep.errors import AurepError

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

_CHUNK = 512  # images counted at a time, so that the statistics need little memory beside the data
_SAMPLE = 2048  # training images that the statistics of a streamed set are taken from


class Images(Protocol):
    """What reads like an array uint8 (N, C, H, W) and fetches what is read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: slice | Labels, /) -> Pixels: ...

    def decode(self, position: int) -> Pixels:
        """One image, (C, H, W)."""
        ...

    def subset(self, chosen: slice | Labels) -> Images:
        """The chosen ones, not fetched."""
        ...


@dataclass(frozen=True, eq=False)
class RawData:
    """A data set as it was read: images uint8 (N, C, H, W), labels int64 (N,), the training part in its final order.

    `x_val` and `y_val` are None unless the set brings its own validation part.
    """

    x_train: Pixels | Images
    y_train: Labels
    x_test: Pixels | Images
    y_test: Labels
    classes: tuple[str, ...]
    x_val: Pixels | Images | None = None
    y_val: Labels | None = None

    def map_images(self, change: Callable[[Pixels | Images], Pixels | Images]) -> RawData:
        """The same with each part's images changed."""
        x_val = None if self.x_val is None else change(self.x_val)
        return replace(self, x_train=change(self.x_train), x_test=change(self.x_test), x_val=x_val)


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images uint8 (N, C, H, W) and labels int64 (N,) for training, choosing (val) and the final figure (test).

    The images are arrays, or, of a set that is streamed, `Images`: slices of them are arrays.

    Args:
        name: as given to `load_data`.
        classes: a name per label.
        mean: per channel, of pixels / 255; by default over the training split.
        std: the same; at least 1/255, so that a constant channel can be divided by it.
    """

    name: str
    x_train: Pixels | Images
    y_train: Labels
    x_val: Pixels | Images
    y_val: Labels
    x_test: Pixels | Images
    y_test: Labels
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def streamed(self) -> bool:
        """Whether the training images are fetched batch by batch."""
        return not isinstance(self.x_train, np.ndarray)

    @property
    def channels(self) -> int:
        return self.image_shape[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, channels, height, width = self.x_train.shape
        return channels, height, width

    def normalise(self, x_uint8: NDArray[Any]) -> NDArray[np.float32]:
        """What a network takes for these pixels: (x / 255 - mean) / std, float32, for (..., C, H, W)."""
        mean = np.array(self.mean, np.float32)[:, None, None]
        std = np.array(self.std, np.float32)[:, None, None]
        return (x_uint8.astype(np.float32) / np.float32(255) - mean) / std


def split_data(
    name: str,
    raw: RawData,
    val_fraction: float,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImageData:
    """Check what was read, hold out the last `val_fraction` of the training part, and measure the rest.

    Of a streamed set, the first 2,048 training images are measured; `mean` and `std` spare that.

    Raises:
        AurepError: fewer than two classes, an empty part, a label out of range, shapes that differ, or a
            `val_fraction` that is not in [0, 1) or would hold out no image, a mean or std that does not fit.
    """
    if not 0 <= val_fraction < 1:
        raise AurepError(f"val_fraction is {val_fraction}, expected a share of the training images in [0, 1).")
    if len(raw.classes) < 2:
        raise AurepError(f"data {name!r} has {len(raw.classes)} class, expected at least 2 to tell apart.")
    x_val, y_val = subset(raw.x_train, slice(0)), raw.y_train[:0]
    x_train, y_train = raw.x_train, raw.y_train
    _check_part(name, "training", x_train, y_train, raw)
    _check_part(name, "test", raw.x_test, raw.y_test, raw)
    if val_fraction and raw.x_val is not None and raw.y_val is not None:
        x_val, y_val = raw.x_val, raw.y_val
        _check_part(name, "validation", x_val, y_val, raw)
    elif val_fraction:
        keep = _kept_for_training(name, len(x_train), val_fraction)
        x_val, y_val = subset(x_train, slice(keep, None)), y_train[keep:]
        x_train, y_train = subset(x_train, slice(keep)), y_train[:keep]
    if y_train.min() == y_train.max():
        raise AurepError(f"data {name!r} has training images of one class only, expected at least 2 to tell apart.")
    channel_mean, channel_std = _normalisation(name, x_train, mean, std)
    return ImageData(
        name, x_train, y_train, x_val, y_val, raw.x_test, raw.y_test, raw.classes, channel_mean, channel_std
    )


def subset(images: Pixels | Images, chosen: slice | Labels) -> Pixels | Images:
    """The chosen ones, kept as `images` are."""
    return images[chosen] if isinstance(images, np.ndarray) else images.subset(chosen)


def _normalisation(
    name: str, x: Pixels | Images, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    for key, given in (("mean", mean), ("std", std)):
        if given is not None and len(given) != x.shape[1]:
            raise AurepError(f"{key} has {len(given)} numbers, but data {name!r} has {x.shape[1]} channels; give each.")
    if std is not None and min(std) <= 0:
        raise AurepError(f"std is {list(std)}, expected positive numbers.")
    if mean is not None and std is not None:
        return tuple(mean), tuple(std)
    sample = x if isinstance(x, np.ndarray) else x.subset(slice(_SAMPLE))
    measured_mean, measured_std = channel_statistics(sample)
    return tuple(mean or measured_mean), tuple(std or measured_std)


def _kept_for_training(name: str, images: int, val_fraction: float) -> int:
    held_out = round(images * val_fraction)
    if held_out in (0, images):
        left = "validation" if held_out == 0 else "training"
        raise AurepError(
            f"val_fraction {val_fraction} of the {images} training images of {name!r} leaves none for {left}; "
            "choose another share, or 0 to hold out none."
        )
    return images - held_out


def _check_part(name: str, part: str, x: Pixels | Images, y: Labels, raw: RawData) -> None:
    if len(x) == 0:
        raise AurepError(f"data {name!r} has no {part} images, expected at least one.")
    if len(x) != len(y):
        raise AurepError(f"data {name!r} has {len(x)} {part} images but {len(y)} labels; expected one each.")
    if x.shape[1:] != raw.x_train.shape[1:]:
        raise AurepError(
            f"the {part} images of {name!r} are {_shape(x)} and its training images {_shape(raw.x_train)} "
            "(channels x height x width); expected one shape: give input_size to resize them."
        )
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= len(raw.classes):
        raise AurepError(
            f"the {part} labels of {name!r} run from {low} to {high}, expected 0 to {len(raw.classes) - 1} "
            f"for its {len(raw.classes)} classes."
        )


def _shape(x: Pixels | Images) -> str:
    return "x".join(map(str, x.shape[1:]))


def channel_statistics(x_uint8: Pixels | Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation of pixels / 255 for (N, C, H, W), exact: taken from a histogram."""
    channels = x_uint8.shape[1]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(x_uint8), _CHUNK):
        some = x_uint8[start : start + _CHUNK]
        for channel in range(channels):
            counts[channel] += np.bincount(some[:, channel].ravel(), minlength=256)
    levels = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ levels
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1)).clip(min=1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())


def fixed_order(images: int) -> NDArray[np.int64]:
    """A permutation of range(images) that is the same in every run."""
    # RandomState, not default_rng: numpy promises that its stream never changes, and a split must not.
    return np.random.RandomState(0).permutation(images).astype(np.int64)


def fixed_split(y: Labels, test_fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the training and the test part, in a fixed permutation, each class split in the same proportion."""
    order = fixed_order(len(y))
    is_test = np.zeros(len(y), bool)
    for label in np.unique(y):
        members = order[y[order] == label]
        is_test[members[len(members) - round(len(members) * test_fraction) :]] = True
    return order[~is_test[order]], order[is_test[order]]
