"""`load_data`: a data set by name, read, resized, split and measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np

from aurep.data.cache import MappedImages, cached
from aurep.data.cifar import read_cifar10, read_cifar100
from aurep.data.embedded import read_digits, read_mnist5k
from aurep.data.encoded import EncodedImages
from aurep.data.folder import read_folder
from aurep.data.hub import read_hub
from aurep.data.images import ImageData, Images, Pixels, RawData, split_data
from aurep.data.memory import available_memory
from aurep.data.npz import read_npz
from aurep.data.resize import Interpolation, Resize, image_size, resize_images
from aurep.data.sources import SOURCES, Source, default_data_dir, locate
from aurep.data.tiny_imagenet import read_tiny_imagenet
from aurep.errors import AurepError

Stream = Literal["auto", "yes", "no"]
EMBEDDED: dict[str, Callable[[], RawData]] = {"mnist5k": read_mnist5k, "digits": read_digits}
ARRAYS: dict[str, Callable[[Path], RawData]] = {"cifar10": read_cifar10, "cifar100": read_cifar100}
DOWNLOADED = (*ARRAYS, "tiny-imagenet")
DATA_NAMES = (*EMBEDDED, *DOWNLOADED, "folder:PATH", "npz:PATH", "hf:NAME")


def load_data(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    val_fraction: float = 0.1,
    input_size: int | Sequence[int] | None = None,
    interpolation: Interpolation = "bilinear",
    crop_pct: float | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    stream: Stream = "auto",
    memory: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    download: bool = True,
    sources: Mapping[str, Source] = SOURCES,
) -> ImageData:
    """Load a data set, into memory where it fits.

    Args:
        name: one of `DATA_NAMES`. ``folder:PATH`` holds class sub-folders under train and test (or val), or directly;
            ``npz:PATH`` holds x_train, y_train, x_test and y_test; a PATH is looked for in the working folder, then
            in `data_dir`.
        data_dir: where the public sets are, or are downloaded to: the set's own folder or its parent. Default:
            ``$AUREP_DATA``, or this user's cache folder.
        val_fraction: share of the training images held out for choosing, from their end. 0 gives an empty val.
            Sets in the order of their classes are put into a fixed permutation before. A set that brings its own
            validation part uses that whole part instead.
        input_size: resize every image to this many pixels per side, or to (height, width). Default: as they are.
        interpolation: of the resizing: nearest, bilinear, bicubic or lanczos.
        crop_pct: None stretches images to `input_size`; a share keeps their shape, scales them to cover `input_size` /
            crop_pct and takes the centre.
        mean: per channel, of pixels / 255. Default: measured on the training images, of a streamed set on 2,048.
        std: the same.
        stream: leave the images of a set that is made of image files (folder:, hf:, tiny-imagenet) where they are, and
            decode each when it is read. "auto": where their pixels would take more than `memory`.
        memory: bytes. Default: a quarter of what is available.
        cache: a folder. The pixels of a set made of image files are decoded into it once, and read from there.
        download: fetch a public set that is not in `data_dir`.
        sources: where to fetch from.

    Raises:
        AurepError: unknown name, missing or unreadable data, or a split that cannot be made.
    """
    resize = Resize(image_size(input_size), interpolation, crop_pct)
    folder = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    raw = _read(name, folder, resize, download, sources)
    if cache is not None:
        store = Path(cache).expanduser()
        raw = raw.map_images(lambda x: cached(x, store) if isinstance(x, EncodedImages) else x)
    if not _streams(raw, stream, memory):
        raw = raw.map_images(_in_memory)
    return split_data(name, raw, val_fraction, mean, std)


def _streams(raw: RawData, stream: Stream, memory: int | None) -> bool:
    if stream != "auto":
        return stream == "yes"
    limit = available_memory() // 4 if memory is None else memory
    return sum(prod(part.shape) for part in (raw.x_train, raw.x_test, raw.x_val) if part is not None) > limit


def _in_memory(images: Pixels | Images) -> Pixels:
    if isinstance(images, np.ndarray):
        return images
    return images.pixels if isinstance(images, MappedImages) else images[:]


def _read(name: str, data_dir: Path, resize: Resize, download: bool, sources: Mapping[str, Source]) -> RawData:
    kind, _, rest = name.partition(":")
    if name in EMBEDDED:
        return _resized(EMBEDDED[name](), resize)
    if name in DOWNLOADED:
        folder = locate(name, sources[name], data_dir, download=download)
        return _resized(ARRAYS[name](folder), resize) if name in ARRAYS else read_tiny_imagenet(folder, resize)
    if kind == "folder" and rest:
        return read_folder(_users_path(rest, data_dir), resize)
    if kind == "npz" and rest:
        return _resized(read_npz(_users_path(rest, data_dir)), resize)
    if kind == "hf" and rest:
        return read_hub(rest, data_dir, resize)
    raise AurepError(f"unknown data {name!r}; expected one of {', '.join(DATA_NAMES)}.")


def _resized(raw: RawData, resize: Resize) -> RawData:
    return raw.map_images(lambda x: resize_images(x, resize) if isinstance(x, np.ndarray) else x)


def _users_path(written: str, data_dir: Path) -> Path:
    path = Path(written).expanduser()
    for candidate in (path, data_dir / path):
        if candidate.exists():
            return candidate.absolute()  # images are read from there later, whatever the working folder is then
    where = f"{path}" if path.is_absolute() else f"{path.absolute()} and {(data_dir / path).absolute()}"
    raise AurepError(f"the data was looked for in {where}, and is not there; correct the path.")
