"""`hf:NAME`: an image classification set that the optional package `datasets` can load."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aurep.data.decode import open_image, survey
from aurep.data.encoded import EncodedImages
from aurep.data.images import Labels, RawData, fixed_order
from aurep.data.resize import AS_THEY_ARE, Resize
from aurep.errors import AurepError

if TYPE_CHECKING:
    from PIL.Image import Image

_TEST_SPLITS = ("test", "validation", "valid", "val")


@dataclass(frozen=True)
class Rows:
    """The images of a split, which `datasets` reads from a mapped file."""

    title: str
    split: Any  # its column holds {"bytes": encoded or None, "path": of a file where bytes is None}
    column: str

    def __len__(self) -> int:
        return len(self.split)

    def name(self, number: int) -> str:
        return f"{self.title} row {number}"

    def opened(self, number: int) -> Image:
        image = self.split[number][self.column]
        encoded = image["bytes"]
        return open_image(Path(image["path"]) if encoded is None else encoded, self.name(number))

    def identity(self, number: int) -> str:
        return f"{self.split._fingerprint} {number}"  # what the package itself keys its cached results by


def read_hub(name: str, data_dir: Path, resize: Resize = AS_THEY_ARE) -> RawData:
    """Find the train and test (or validation) split of NAME; its one Image and first ClassLabel column are used.

    The training images are put into a fixed permutation: many of these sets come sorted by class.

    Args:
        name: what `datasets.load_dataset` takes: a public set, or a local folder.
        data_dir: the set is cached here.
        resize: how every image comes to its size; if it names none, all must have one.

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
    encoded = {split: loaded[split].cast_column(image_key, datasets.Image(decode=False)) for split in ("train", test)}
    rows = {split: Rows(f"hf:{name} {split}", images, image_key) for split, images in encoded.items()}
    if not all(map(len, rows.values())):
        raise AurepError(f"data hf:{name} has an empty split; choose a set with images in train and test.")
    shape = survey(list(rows.values()), resize)
    x_train, x_test = (EncodedImages.all_of(rows[split], *shape) for split in ("train", test))
    y_train, y_test = (_labels(encoded[split], label_key) for split in ("train", test))
    order = fixed_order(len(y_train))
    return RawData(x_train.subset(order), y_train[order], x_test, y_test, classes)


def _labels(split: Any, column: str) -> Labels:
    return np.asarray(split[column][:], np.int64)


def _column(name: str, split: Any, kind: str) -> str:
    for column, feature in split.features.items():
        if type(feature).__name__ == kind:
            return str(column)
    raise AurepError(f"data hf:{name} has no column of kind {kind} among {', '.join(split.features)}.")
