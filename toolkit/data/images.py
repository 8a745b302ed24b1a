"""An image data set in memory, split three ways: what every reader gives and every user of data takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aurep.errors import AurepError

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

_CHUNK = 512  # images counted at a time, so that the statistics need little memory beside the data


@dataclass(frozen=True, eq=False)
class RawData:
    """A data set as it was read: images uint8 (N, C, H, W), labels int64 (N,), the training part in its final order.

    `x_val` and `y_val` are None unless the set brings its own validation part.
    """

    x_train: Pixels
    y_train: Labels
    x_test: Pixels
    y_test: Labels
    classes: tuple[str, ...]
    x_val: Pixels | None = None
    y_val: Labels | None = None


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images uint8 (N, C, H, W) and labels int64 (N,) for training, choosing (val) and the final figure (test).

    Args:
        name: as given to `load_data`.
        classes: a name per label.
        mean: per channel over the training split, of pixels / 255.
        std: the same; at least 1/255, so that a constant channel can be divided by it.
    """

    name: str
    x_train: Pixels
    y_train: Labels
    x_val: Pixels
    y_val: Labels
    x_test: Pixels
    y_test: Labels
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

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


def split_data(name: str, raw: RawData, val_fraction: float) -> ImageData:
    """Check what was read, hold out the last `val_fraction` of the training part, and measure the rest.

    Raises:
        AurepError: fewer than two classes, an empty part, a label out of range, shapes that differ, or a
            `val_fraction` that is not in [0, 1) or would hold out no image.
    """
    if not 0 <= val_fraction < 1:
        raise AurepError(f"val_fraction is {val_fraction}, expected a share of the training images in [0, 1).")
    if len(raw.classes) < 2:
        raise AurepError(f"data {name!r} has {len(raw.classes)} class, expected at least 2 to tell apart.")
    x_val, y_val = raw.x_train[:0], raw.y_train[:0]
    x_train, y_train = raw.x_train, raw.y_train
    _check_part(name, "training", x_train, y_train, raw)
    _check_part(name, "test", raw.x_test, raw.y_test, raw)
    if val_fraction and raw.x_val is not None and raw.y_val is not None:
        x_val, y_val = raw.x_val, raw.y_val
        _check_part(name, "validation", x_val, y_val, raw)
    elif val_fraction:
        keep = _kept_for_training(name, len(x_train), val_fraction)
        x_val, y_val = x_train[keep:], y_train[keep:]
        x_train, y_train = x_train[:keep], y_train[:keep]
    if y_train.min() == y_train.max():
        raise AurepError(f"data {name!r} has training images of one class only, expected at least 2 to tell apart.")
    mean, std = channel_statistics(x_train)
    return ImageData(name, x_train, y_train, x_val, y_val, raw.x_test, raw.y_test, raw.classes, mean, std)


def _kept_for_training(name: str, images: int, val_fraction: float) -> int:
    held_out = round(images * val_fraction)
    if held_out in (0, images):
        left = "validation" if held_out == 0 else "training"
        raise AurepError(
            f"val_fraction {val_fraction} of the {images} training images of {name!r} leaves none for {left}; "
            "choose another share, or 0 to hold out none."
        )
    return images - held_out


def _check_part(name: str, part: str, x: Pixels, y: Labels, raw: RawData) -> None:
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


def _shape(x: Pixels) -> str:
    return "x".join(map(str, x.shape[1:]))


def channel_statistics(x_uint8: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation of pixels / 255 for (N, C, H, W), exact: taken from a histogram."""
    channels = x_uint8.shape[1]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(x_uint8), _CHUNK):
        for channel in range(channels):
            counts[channel] += np.bincount(x_uint8[start : start + _CHUNK, channel].ravel(), minlength=256)
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
