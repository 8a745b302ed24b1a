"""`load_data`: a data set by name, read, resized, split and measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from aurep.data.cifar import read_cifar10, read_cifar100
from aurep.data.embedded import read_digits, read_mnist5k
from aurep.data.folder import read_folder
from aurep.data.hub import read_hub
from aurep.data.images import ImageData, RawData, split_data
from aurep.data.npz import read_npz
from aurep.data.resize import resize_data
from aurep.data.sources import SOURCES, Source, default_data_dir, locate
from aurep.data.tiny_imagenet import read_tiny_imagenet
from aurep.errors import AurepError

EMBEDDED: dict[str, Callable[[], RawData]] = {"mnist5k": read_mnist5k, "digits": read_digits}
DOWNLOADED: dict[str, Callable[[Path], RawData]] = {
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "tiny-imagenet": read_tiny_imagenet,
}
DATA_NAMES = (*EMBEDDED, *DOWNLOADED, "folder:PATH", "npz:PATH", "hf:NAME")


def load_data(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    val_fraction: float = 0.1,
    input_size: int | None = None,
    download: bool = True,
    sources: Mapping[str, Source] = SOURCES,
) -> ImageData:
    """Load a data set into memory.

    Args:
        name: one of `DATA_NAMES`. ``folder:PATH`` holds class sub-folders under train and test (or val), or directly;
            ``npz:PATH`` holds x_train, y_train, x_test and y_test; a PATH is looked for in the working folder, then
            in `data_dir`.
        data_dir: where the public sets are, or are downloaded to: the set's own folder or its parent. Default:
            ``$AUREP_DATA``, or this user's cache folder.
        val_fraction: share of the training images held out for choosing, from their end. 0 gives an empty val.
            Sets in the order of their classes are put into a fixed permutation before. A set that brings its own
            validation part uses that whole part instead.
        input_size: resize every image to this many pixels per side (bilinear, aspect not kept). Default: as they are.
        download: fetch a public set that is not in `data_dir`.
        sources: where to fetch from.

    Raises:
        AurepError: unknown name, missing or unreadable data, or a split that cannot be made.
    """
    if input_size is not None and input_size < 1:
        raise AurepError(f"input_size is {input_size}, expected a positive number of pixels.")
    folder = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    raw = _read(name, folder, input_size, download, sources)
    if input_size is not None:
        raw = resize_data(raw, input_size)
    return split_data(name, raw, val_fraction)


def _read(name: str, data_dir: Path, input_size: int | None, download: bool, sources: Mapping[str, Source]) -> RawData:
    kind, _, rest = name.partition(":")
    if name in EMBEDDED:
        return EMBEDDED[name]()
    if name in DOWNLOADED:
        return DOWNLOADED[name](locate(name, sources[name], data_dir, download=download))
    if kind == "folder" and rest:
        return read_folder(_users_path(rest, data_dir), input_size)
    if kind == "npz" and rest:
        return read_npz(_users_path(rest, data_dir))
    if kind == "hf" and rest:
        return read_hub(rest, data_dir, input_size)
    raise AurepError(f"unknown data {name!r}; expected one of {', '.join(DATA_NAMES)}.")


def _users_path(written: str, data_dir: Path) -> Path:
    path = Path(written).expanduser()
    for candidate in (path, data_dir / path):
        if candidate.exists():
            return candidate
    where = f"{path}" if path.is_absolute() else f"{path.absolute()} and {(data_dir / path).absolute()}"
    raise AurepError(f"the data was looked for in {where}, and is not there; correct the path.")
