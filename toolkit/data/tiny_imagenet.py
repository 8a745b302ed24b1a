"""Tiny-ImageNet from its folder form: 200 classes, 64x64 RGB; its labelled validation images serve as test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aurep.data.decode import decode_files, survey
from aurep.data.images import Labels, RawData, fixed_order
from aurep.errors import AurepError


def read_tiny_imagenet(folder: Path) -> RawData:
    """`tiny-imagenet-200`: train/CLASS/images/*, val/images/*, val/val_annotations.txt.

    Classes are WordNet ids, sorted. The official test images have no labels, so val is the test part, as in the
    literature; training images, which come sorted by class, are put into a fixed permutation.

    Raises:
        AurepError: a folder or the annotations are missing or damaged, or name a class that is not in train.
    """
    train = folder / "train"
    if not train.is_dir():
        raise AurepError(f"{folder} has no train folder; unpack the official archive again.")
    classes = tuple(sorted(entry.name for entry in train.iterdir() if entry.is_dir()))
    train_files: list[Path] = []
    train_labels: list[int] = []
    for label, name in enumerate(classes):
        images = train / name / "images"
        if not images.is_dir():
            raise AurepError(f"{images} is missing; unpack the official archive again.")
        listed = sorted(entry for entry in images.iterdir() if not entry.name.startswith("."))
        train_files += listed
        train_labels += [label] * len(listed)
    test_files, y_test = _annotated(folder / "val", classes)
    if not train_files or not test_files:
        raise AurepError(f"{folder} has no images in train or in val; unpack the official archive again.")
    size, _ = survey(train_files + test_files)
    order = fixed_order(len(train_files))
    x_train = decode_files([train_files[i] for i in order], size, 3)
    y_train = np.array(train_labels, np.int64)[order]
    return RawData(x_train, y_train, decode_files(test_files, size, 3), y_test, classes)


def _annotated(val: Path, classes: tuple[str, ...]) -> tuple[list[Path], Labels]:
    """Files and labels in the order of val_annotations.txt: tab-separated file name, class, bounding box."""
    annotations = val / "val_annotations.txt"
    label_of = {name: label for label, name in enumerate(classes)}
    files: list[Path] = []
    labels: list[int] = []
    for number, line in enumerate(annotations.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        columns = line.split("\t")
        if len(columns) < 2 or columns[1] not in label_of or Path(columns[0]).name != columns[0]:
            raise AurepError(
                f"{annotations} line {number} is {line[:80]!r}, expected a file name, a tab and a class of train; "
                "unpack the official archive again."
            )
        files.append(val / "images" / columns[0])
        labels.append(label_of[columns[1]])
    return files, np.array(labels, np.int64)
