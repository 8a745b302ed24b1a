"""`folder:PATH`: images in one sub-folder per class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aurep.data.decode import survey
from aurep.data.encoded import EncodedImages, Files
from aurep.data.images import Labels, RawData, fixed_order, fixed_split
from aurep.data.resize import AS_THEY_ARE, Resize
from aurep.errors import AurepError

_TEST_FRACTION = 0.2
_NOT_DATA = ("Thumbs.db", "desktop.ini")  # what file managers leave behind


def read_folder(path: Path, resize: Resize = AS_THEY_ARE) -> RawData:
    """Find class sub-folders of images; labels follow the sorted names of the class folders.

    With `train` and `test` in `path`, those are the parts, and `val`, if there, the validation part; with `train`
    and `val` alone, `val` is the test part. Otherwise the class folders lie in `path` itself and a fixed fifth of each
    is test. Images are greyscale only if all are. Files whose names begin with a dot are passed over.

    Args:
        path: the folder.
        resize: how every image comes to its size; if it names none, all must have one.

    Raises:
        AurepError: no class folders or images, a file that is no image, sizes that differ, classes that do not match.
    """
    if not path.is_dir():
        raise AurepError(f"{path} is not a folder; folder: expects one that holds a sub-folder of images per class.")
    parts = {part: path / part for part in ("train", "test", "val") if (path / part).is_dir()}
    if "train" not in parts:
        return _read_undivided(path, resize)
    if len(parts) == 1:
        raise AurepError(f"{path} has train but neither test nor val; add one, or put the class folders in {path}.")
    if "test" not in parts:
        parts["test"] = parts.pop("val")
    classes = _class_names(parts["train"])
    found = {part: list_images(folder, classes) for part, folder in parts.items()}
    shape = survey([files for files, _ in found.values()], resize)
    images = {part: EncodedImages.all_of(files, *shape) for part, (files, _) in found.items()}
    labels = {part: labels for part, (_, labels) in found.items()}
    order = fixed_order(len(labels["train"]))
    x_train, y_train = images["train"].subset(order), labels["train"][order]
    return RawData(x_train, y_train, images["test"], labels["test"], classes, images.get("val"), labels.get("val"))


def _read_undivided(path: Path, resize: Resize) -> RawData:
    classes = _class_names(path)
    files, labels = list_images(path, classes)
    images = EncodedImages.all_of(files, *survey([files], resize))
    train, test = fixed_split(labels, _TEST_FRACTION)
    return RawData(images.subset(train), labels[train], images.subset(test), labels[test], classes)


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")))
    if not names:
        raise AurepError(f"{folder} has no class sub-folders, expected one folder of images per class.")
    return names


def list_images(folder: Path, classes: tuple[str, ...]) -> tuple[Files, Labels]:
    """Files and labels of the class sub-folders, sorted by class, then by file name.

    Raises:
        AurepError: a sub-folder that is none of `classes`, or holds a folder; no file at all.
    """
    label_of = {name: label for label, name in enumerate(classes)}
    files: list[str] = []
    labels: list[NDArray[np.int64]] = []
    for name in _class_names(folder):
        if name not in label_of:
            raise AurepError(f"{folder / name} is a class that the training images lack; add it there or remove it.")
        listed = _files_in(folder / name)
        files += [f"{name}/{file}" for file in listed]
        labels.append(np.full(len(listed), label_of[name], np.int64))
    return Files(folder, files), np.concatenate(labels)


def _files_in(folder: Path) -> list[str]:
    found = []
    with os.scandir(folder) as entries:  # tells folders from files without a look at each
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _NOT_DATA:
                continue
            if entry.is_dir():
                raise AurepError(f"{entry.path} is a folder inside a class folder; expected images only: move it away.")
            found.append(entry.name)
    if not found:
        raise AurepError(f"{folder} holds no image, expected one of each class at least; add one, or remove it.")
    return sorted(found)
