"""Read the pickles of the official CIFAR files without running what else a pickle may hold.

A pickle can call anything that it can name. This reader lets it name only what rebuilds a numpy array of numbers.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from aurep.errors import AurepError


def _dtype(spec: Any, *flags: Any) -> np.dtype[Any]:
    found: np.dtype[Any] = np.dtype(spec, *flags)
    if found.kind not in "biuf":
        raise pickle.UnpicklingError(f"array of {found}")
    return found


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text encoded as {encoding!r}")
    return text.encode("latin1")


def _reconstruct(subtype: type, shape: tuple[int, ...], dtype: bytes | str) -> Any:
    # What numpy's own function does, less the choice of class: an empty array whose state comes next.
    if subtype is not np.ndarray:
        raise pickle.UnpicklingError(f"array of class {subtype!r}")
    return np.ndarray(shape, _dtype(dtype))


_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")
        return _ADMITTED[module_name, global_name]


def load_pickled_dict(path: Path) -> dict[bytes, Any]:
    """The dictionary in an official CIFAR file, with bytes keys.

    Raises:
        AurepError: the file cannot be read, is damaged, holds no dictionary, or names anything but numpy arrays.
    """
    try:
        with path.open("rb") as stream:
            found = _ArrayUnpickler(stream, encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise AurepError(
            f"{path} is not a readable official batch ({type(error).__name__}: {error}); expected a pickled "
            "dictionary of numpy arrays, lists and strings: unpack the official archive again."
        ) from error
    if not isinstance(found, dict):
        raise AurepError(f"{path} holds a {type(found).__name__}, expected the dictionary of an official batch.")
    # Re-pickled copies made by Python 3 have text keys.
    return {key.encode() if isinstance(key, str) else key: value for key, value in found.items()}
