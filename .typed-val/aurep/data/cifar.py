"""CIFAR-10 and CIFAR-100 from their official python batches, in the official order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aurep.data.images import Labels, Pixels, RawData
from aurep.data.unpickle import load_pickled_dict
from aurep.errors import AurepError

_PIXELS = 3 * 32 * 32
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def read_cifar10(folder: Path) -> RawData:
    """`cifar-10-batches-py`: data_batch_1 to data_batch_5, then test_batch.

    Raises:
        AurepError: a batch is missing or damaged.
    """
    batches = [_read_batch(folder / f"data_batch_{number}", b"labels", 10) for number in range(1, 6)]
    x_train = np.concatenate([images for images, _ in batches])
    y_train = np.concatenate([labels for _, labels in batches])
    x_test, y_test = _read_batch(folder / "test_batch", b"labels", 10)
    return RawData(x_train, y_train, x_test, y_test, CIFAR10_CLASSES)


def read_cifar100(folder: Path) -> RawData:
    """`cifar-100-python`: train and test with the fine labels, class names from meta.

    Raises:
        AurepError: a file is missing or damaged.
    """
    x_train, y_train = _read_batch(folder / "train", b"fine_labels", 100)
    x_test, y_test = _read_batch(folder / "test", b"fine_labels", 100)
    return RawData(x_train, y_train, x_test, y_test, _fine_names(folder / "meta"))


def _read_batch(path: Path, label_key: bytes, num_classes: int) -> tuple[Pixels, Labels]:
    batch = load_pickled_dict(path)
    for key in (b"data", label_key):
        if key not in batch:
            raise AurepError(f"{path} lacks the key {key.decode()!r}; unpack the official archive again.")
    images = batch[b"data"]
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (_PIXELS,):
        raise AurepError(
            f"{path} holds {_describe(images)} under 'data', expected a uint8 array of shape (images, {_PIXELS})."
        )
    return images.reshape(-1, 3, 32, 32), _labels(path, batch[label_key], len(images), num_classes)


def _labels(path: Path, values: Any, images: int, num_classes: int) -> Labels:
    try:
        labels = np.asarray(values, np.int64)
    except (TypeError, ValueError, OverflowError):
        raise AurepError(f"{path} has labels that are not whole numbers; expected 0 to {num_classes - 1}.") from None
    if labels.shape != (images,):
        raise AurepError(f"{path} has labels of shape {labels.shape} for {images} images, expected one for each.")
    if images and not (labels.min() >= 0 and labels.max() < num_classes):
        raise AurepError(f"{path} has labels from {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1}.")
    return labels


def _fine_names(path: Path) -> tuple[str, ...]:
    names = load_pickled_dict(path).get(b"fine_label_names")
    if not isinstance(names, list) or len(names) != 100:
        raise AurepError(f"{path} lacks the 100 'fine_label_names'; unpack the official archive again.")
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)


def _describe(found: Any) -> str:
    return f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else f"a {type(found).__name__}"
