"""Tiny-ImageNet from its folder form: 200 classes, 64x64 RGB; its labelled validation images serve as test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aurep.data.decode import survey
from aurep.data.encoded import EncodedImages, Files
from aurep.data.images import Labels, RawData, fixed_order
from aurep.data.resize import Resize
from aurep.errors import AurepError


def read_tiny_imagenet(folder: Path, resize: Resize) -> RawData:
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
    train_files: list[str] = []
    train_labels: list[int] = []
    for label, name in enumerate(classes):
        images = train / name / "images"
        if not images.is_dir():
            raise AurepError(f"{images} is missing; unpack the official archive again.")
        listed = sorted(entry.name for entry in images.iterdir() if not entry.name.startswith("."))
        train_files += [f"{name}/images/{file}" for file in listed]
        train_labels += [label] * len(listed)
    test_files, y_test = _annotated(folder / "val", classes)
    if not train_files or not test_files:
        raise AurepError(f"{folder} has no images in train or in val; unpack the official archive again.")
    trained, tested = Files(train, train_files), Files(folder / "val" / "images", test_files)
    resize, _ = survey([trained, tested], resize)
    order = fixed_order(len(trained))
    x_train = EncodedImages.all_of(trained, resize, 3).subset(order)
    y_train = np.array(train_labels, np.int64)[order]
    return RawData(x_train, y_train, EncodedImages.all_of(tested, resize, 3), y_test, classes)


def _annotated(val: Path, classes: tuple[str, ...]) -> tuple[list[str], Labels]:
    """Files and labels in the order of val_annotations.txt: tab-separated file name, class, bounding box."""
    annotations = val / "val_annotations.txt"
    label_of = {name: label for label, name in enumerate(classes)}
    files: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(annotations.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        columns = line.split("\t")
        if len(columns) < 2 or columns[1] not in label_of or Path(columns[0]).name != columns[0]:
            raise AurepError(
                f"{annotations} line {number} is {line[:80]!r}, expected a file name, a tab and a class of train; "
                "unpack the official archive again."
            )
        files.append(columns[0])
        labels.append(label_of[columns[1]])
    return files, np.array(labels, np.int64)
