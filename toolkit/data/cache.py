"""Decoded, resized pixels in a file that is mapped into memory: an image is decoded once, then only read.

The file is a plain .npy array, named by a digest of all that determines its pixels. It is built under another name,
chunk by chunk, each flushed before the next begins; so a build that was killed goes on after the last chunk but one.
"""

from __future__ import annotations

import hashlib
import os
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from aurep.data.encoded import EncodedImages
from aurep.data.images import Pixels
from aurep.errors import AurepError

_CHUNK = 256  # images


class MappedImages:
    """Reads like the array in the .npy file at `path`, which it maps, and is handed to a process by its path."""

    def __init__(self, path: Path, order: NDArray[np.int64] | None = None) -> None:
        self.path = path
        # Copy-on-write, since torch refuses memory that is read-only; nothing writes to it.
        self.pixels: Pixels = np.load(path, mmap_mode="c", allow_pickle=False)
        self.order = np.arange(len(self.pixels)) if order is None else order

    def __reduce__(self) -> tuple[type[MappedImages], tuple[Path, NDArray[np.int64]]]:
        return MappedImages, (self.path, self.order)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.order), *self.pixels.shape[1:]

    def __len__(self) -> int:
        return len(self.order)

    def subset(self, chosen: slice | NDArray[np.int64]) -> MappedImages:
        return MappedImages(self.path, self.order[chosen])

    def decode(self, position: int) -> Pixels:
        """One image, uint8 (C, H, W)."""
        pixels: Pixels = self.pixels[self.order[position]]
        return pixels

    def __getitem__(self, chosen: slice | NDArray[np.int64]) -> Pixels:
        return self.pixels[self.order[chosen]]


def cached(images: EncodedImages, folder: Path) -> MappedImages:
    """The pixels of `images` from `folder`, decoded into it first where they are not there.

    Several processes may ask for the same at once: one builds, the others wait.

    Raises:
        AurepError: an image is damaged, or the disk is full.
    """
    final = folder / f"{_digest(images)}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(final.with_suffix(".lock")):
            if not final.is_file():
                _build(images, final.with_suffix(".part"))
                final.with_suffix(".part").replace(final)
    except OSError as error:
        raise AurepError(
            f"the cache {final} of {prod(images.shape):,} bytes cannot be written ({error}); "
            "free the disk, or choose another data.cache."
        ) from error
    return MappedImages(final)


def _build(images: EncodedImages, part: Path) -> None:
    part.touch()
    with part.open("r+b") as stream:
        done = _done(stream, images)
        stream.truncate()
        for start in range(done, len(images), _CHUNK):
            stream.write(images[start : start + _CHUNK].tobytes())
            stream.flush()
            os.fsync(stream.fileno())


def _done(stream: BinaryIO, images: EncodedImages) -> int:
    """Images of an unfinished build that are surely on the disk; leaves the stream behind them."""
    np.lib.format.write_array_header_2_0(stream, {"descr": "|u1", "fortran_order": False, "shape": images.shape})
    header, size = stream.tell(), prod(images.shape[1:])
    chunks = (stream.seek(0, os.SEEK_END) - header) // (size * _CHUNK)
    done = max(0, chunks - 1) * _CHUNK
    stream.seek(header + done * size)
    return done


def _digest(images: EncodedImages) -> str:
    from PIL import __version__, features

    jpeg = features.version("libjpeg_turbo") or features.version("jpg")
    digest = hashlib.sha256(f"{images.shape} {images.resize} Pillow {__version__} JPEG {jpeg}".encode())
    for number in images.order.tolist():
        digest.update(images.store.identity(number).encode() + b"\n")
    return digest.hexdigest()[:32]
