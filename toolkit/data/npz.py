"""`npz:PATH`: arrays x_train, y_train, x_test, y_test in one NumPy archive."""

from __future__ import annotations

import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aurep.data.images import Labels, Pixels, RawData
from aurep.errors import AurepError

_CHANNELS = (1, 2, 3, 4)


def read_npz(path: Path) -> RawData:
    """Read images and labels in the order they are stored; nothing in the file is unpickled.

    Images are uint8, (N, C, H, W) or (N, H, W, C) with one to four channels, or (N, H, W) greyscale; labels are
    integers (N,) or (N, 1). Optional keys: x_val and y_val, a validation part of its own; classes, an array of names
    (default: the labels up to the largest in y_train).

    Raises:
        AurepError: the file is no npz archive, or a key is missing or holds something else.
    """
    arrays = _read_arrays(path)
    x_train = _images(path, "x_train", arrays)
    y_train = _labels(path, "y_train", arrays, len(x_train))
    x_test = _images(path, "x_test", arrays)
    y_test = _labels(path, "y_test", arrays, len(x_test))
    classes = _classes(path, arrays, y_train)
    if "x_val" not in arrays:
        return RawData(x_train, y_train, x_test, y_test, classes)
    x_val = _images(path, "x_val", arrays)
    return RawData(x_train, y_train, x_test, y_test, classes, x_val, _labels(path, "y_val", arrays, len(x_val)))


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    with ExitStack() as opened:
        try:
            stream = opened.enter_context(path.open("rb"))
            archive = np.load(stream, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise AurepError(
                f"{path} cannot be read as an npz archive ({error}); write it with numpy.savez."
            ) from error
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise AurepError(f"{path} is a single array, expected an npz archive; write it with numpy.savez.")
        return {key: _read_array(path, key, archive) for key in archive.files}


def _read_array(path: Path, key: str, archive: Any) -> NDArray[Any]:
    try:
        found: NDArray[Any] = archive[key]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise AurepError(
            f"{path} holds something unreadable under {key!r} ({error}); expected a plain array of numbers."
        ) from error
    return found


def _get(path: Path, key: str, arrays: dict[str, NDArray[Any]]) -> NDArray[Any]:
    if key not in arrays:
        raise AurepError(
            f"{path} lacks the key {key!r}, it has {', '.join(arrays) or 'none'}; "
            "expected x_train, y_train, x_test and y_test."
        )
    return arrays[key]


def _images(path: Path, key: str, arrays: dict[str, NDArray[Any]]) -> Pixels:
    found = _get(path, key, arrays)
    if found.dtype != np.uint8:
        raise AurepError(f"{key!r} of {path} is {found.dtype}, expected uint8 pixels 0 to 255; convert it.")
    if found.ndim == 3:
        return found[:, None]
    if found.ndim != 4:
        raise AurepError(f"{key!r} of {path} has shape {found.shape}, expected (N, C, H, W) or (N, H, W, C).")
    channels_first, channels_last = found.shape[1] in _CHANNELS, found.shape[3] in _CHANNELS
    if channels_first == channels_last:
        raise AurepError(
            f"{key!r} of {path} has shape {found.shape}, in which the channels cannot be told; expected "
            "(N, C, H, W) or (N, H, W, C) with one to four channels and larger images."
        )
    return found if channels_first else np.ascontiguousarray(found.transpose(0, 3, 1, 2))


def _labels(path: Path, key: str, arrays: dict[str, NDArray[Any]], images: int) -> Labels:
    found = _get(path, key, arrays)
    if found.dtype.kind not in "iu":
        raise AurepError(f"{key!r} of {path} is {found.dtype}, expected integer labels from 0; convert it.")
    if found.shape not in ((images,), (images, 1)):
        raise AurepError(f"{key!r} of {path} has shape {found.shape}, expected ({images},), a label per image.")
    labels = found.reshape(-1).astype(np.int64)
    if images and labels.min() < 0:
        raise AurepError(f"{key!r} of {path} has the label {labels.min()}, expected labels from 0.")
    return labels


def _classes(path: Path, arrays: dict[str, NDArray[Any]], y_train: Labels) -> tuple[str, ...]:
    if "classes" not in arrays:
        highest = int(y_train.max(initial=-1))
        if highest >= max(len(y_train), 1):
            raise AurepError(
                f"'y_train' of {path} has the label {highest} for {len(y_train)} images; expected labels 0, 1, 2, ..."
            )
        return tuple(str(label) for label in range(highest + 1))
    names = arrays["classes"]
    if names.dtype.kind != "U" or names.ndim != 1:
        raise AurepError(f"'classes' of {path} is {names.dtype} {names.shape}, expected a row of names.")
    return tuple(names.tolist())
