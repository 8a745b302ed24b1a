"""`hf:NAME`: an image classification set that the optional package `datasets` can load."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from aurep.data.decode import GREY_MODES, to_pixels
from aurep.data.images import Labels, Pixels, RawData, fixed_order
from aurep.errors import AurepError

_TEST_SPLITS = ("test", "validation", "valid", "val")


def read_hub(name: str, data_dir: Path, input_size: int | None = None) -> RawData:
    """Read the train and test (or validation) split of NAME; its one Image and first ClassLabel column are used.

    The training images are put into a fixed permutation: many of these sets come sorted by class.

    Args:
        name: what `datasets.load_dataset` takes: a public set, or a local folder.
        data_dir: the set is cached here.
        input_size: resize every image to this many pixels per side; without it all must have one size.

    Raises:
        AurepError: the package or the set is missing, or a split or a column is.
    """
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise AurepError(f'data hf:{name} needs datasets ({error}); pip install "aurep[hf]".') from error
    try:
        loaded = datasets.load_dataset(name, cache_dir=str(data_dir / "hf"))
    except Exception as error:  # the package raises anything, from network errors to those of a set's own reader
        reason = " ".join(str(error).split())
        raise AurepError(
            f"data hf:{name} could not be loaded ({type(error).__name__}: {reason}); check the name and the network."
        ) from error
    if "train" not in loaded:
        raise AurepError(f"data hf:{name} has the splits {', '.join(loaded)}, expected one called train.")
    test = next((split for split in _TEST_SPLITS if split in loaded), None)
    if test is None:
        raise AurepError(f"data hf:{name} has no test or validation split beside train; choose a set that has.")
    image_key, label_key = (_column(name, loaded["train"], kind) for kind in ("Image", "ClassLabel"))
    classes = tuple(loaded["train"].features[label_key].names)
    train, y_train = _decoded(name, loaded["train"], image_key, label_key, input_size)
    tested, y_test = _decoded(name, loaded[test], image_key, label_key, input_size)
    channels = max(len(pixels) for pixels in (*train, *tested))
    x_train, x_test = _stacked(train, channels), _stacked(tested, channels)
    order = fixed_order(len(y_train))
    return RawData(x_train[order], y_train[order], x_test, y_test, classes)


def _column(name: str, split: Any, kind: str) -> str:
    for column, feature in split.features.items():
        if type(feature).__name__ == kind:
            return str(column)
    raise AurepError(f"data hf:{name} has no column of kind {kind} among {', '.join(split.features)}.")


def _decoded(
    name: str, split: Any, image_key: str, label_key: str, input_size: int | None
) -> tuple[list[Pixels], Labels]:
    pixels: list[Pixels] = []
    labels: list[int] = []
    size = None if input_size is None else (input_size, input_size)
    for row in split:
        image = row[image_key]
        if size is None:
            size = (image.height, image.width)
        if input_size is None and (image.height, image.width) != size:
            raise AurepError(
                f"data hf:{name} has images of {image.width}x{image.height} and of {size[1]}x{size[0]} pixels; "
                "give input_size to resize them all."
            )
        pixels.append(to_pixels(image, size, 1 if image.mode in GREY_MODES else 3))
        labels.append(row[label_key])
    if not pixels:
        raise AurepError(f"data hf:{name} has an empty split; choose a set with images in train and test.")
    return pixels, np.array(labels, np.int64)


def _stacked(images: list[Pixels], channels: int) -> Pixels:
    return np.stack([np.broadcast_to(pixels, (channels, *pixels.shape[1:])) for pixels in images])
