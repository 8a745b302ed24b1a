"""`folder:PATH`: images in one sub-folder per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aurep.data.decode import decode_files, survey
from aurep.data.images import Labels, Pixels, RawData, fixed_order, fixed_split
from aurep.errors import AurepError

_TEST_FRACTION = 0.2
_NOT_DATA = ("Thumbs.db", "desktop.ini")  # what file managers leave behind


def read_folder(path: Path, input_size: int | None = None) -> RawData:
    """Read class sub-folders of images; labels follow the sorted names of the class folders.

    With `train` and `test` in `path`, those are the parts, and `val`, if there, the validation part; with `train`
    and `val` alone, `val` is the test part. Otherwise the class folders lie in `path` itself and a fixed fifth of each
    is test. Images are greyscale only if all are. Files whose names begin with a dot are passed over.

    Args:
        path: the folder.
        input_size: resize every image to this many pixels per side; without it all must have one size.

    Raises:
        AurepError: no class folders or images, a file that is no image, sizes that differ, classes that do not match.
    """
    if not path.is_dir():
        raise AurepError(f"{path} is not a folder; folder: expects one that holds a sub-folder of images per class.")
    parts = {part: path / part for part in ("train", "test", "val") if (path / part).is_dir()}
    if "train" not in parts:
        return _read_undivided(path, input_size)
    if len(parts) == 1:
        raise AurepError(f"{path} has train but neither test nor val; add one, or put the class folders in {path}.")
    if "test" not in parts:
        parts["test"] = parts.pop("val")
    classes = _class_names(parts["train"])
    found = {part: list_images(folder, classes) for part, folder in parts.items()}
    pixels = _decode_alike([files for files, _ in found.values()], input_size)
    images = dict(zip(found, pixels, strict=True))
    labels = {part: labels for part, (_, labels) in found.items()}
    order = fixed_order(len(labels["train"]))
    x_train, y_train = images["train"][order], labels["train"][order]
    return RawData(x_train, y_train, images["test"], labels["test"], classes, images.get("val"), labels.get("val"))


def _read_undivided(path: Path, input_size: int | None) -> RawData:
    classes = _class_names(path)
    files, labels = list_images(path, classes)
    (pixels,) = _decode_alike([files], input_size)
    train, test = fixed_split(labels, _TEST_FRACTION)
    return RawData(pixels[train], labels[train], pixels[test], labels[test], classes)


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")))
    if not names:
        raise AurepError(f"{folder} has no class sub-folders, expected one folder of images per class.")
    return names


def list_images(folder: Path, classes: tuple[str, ...]) -> tuple[list[Path], Labels]:
    """Files and labels of the class sub-folders, sorted by class, then by file name.

    Raises:
        AurepError: a sub-folder that is none of `classes`, or holds a folder; no file at all.
    """
    files: list[Path] = []
    labels: list[int] = []
    for name in _class_names(folder):
        if name not in classes:
            raise AurepError(f"{folder / name} is a class that the training images lack; add it there or remove it.")
        for entry in sorted((folder / name).iterdir()):
            if entry.name.startswith(".") or entry.name in _NOT_DATA:
                continue
            if entry.is_dir():
                raise AurepError(f"{entry} is a folder inside a class folder; expected images only: move it away.")
            files.append(entry)
            labels.append(classes.index(name))
        if classes.index(name) not in labels[-1:]:
            raise AurepError(
                f"{folder / name} holds no image, expected one of each class at least; add one, or remove it."
            )
    return files, np.array(labels, np.int64)


def _decode_alike(parts: list[list[Path]], input_size: int | None) -> list[Pixels]:
    everything = [file for files in parts for file in files]
    size, channels = survey(everything, input_size)
    return [decode_files(files, size, channels) for files in parts]
