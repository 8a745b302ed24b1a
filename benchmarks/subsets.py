"""CIFAR-10 in parts, as npz files: for runs of minutes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SEEN, VAL_IMAGES = 45_000, 2_500  # what the zoo's teachers were trained on; of the others, how many validate


def first_images(
    data_dir: str, path: Path, train: int, *, val: int = 0, val_from: int | None = None, test: int | None = None
) -> Path:
    """Write `path`, unless it is there, and return it.

    Args:
        train: the first so many training images.
        val: so many of those from `val_from` on (default: behind the first), to validate; 0: a run splits them off.
        test: so many of the test images, None: all; 0: a hundred training images stand there again, for a run wants
            some, and the test set is not touched.
    """
    from aurep.data import load_data

    if path.exists():
        return path
    full = load_data("cifar10", data_dir, val_fraction=0.0)
    start = train if val_from is None else val_from
    parts = {"train": (full.x_train[:train], full.y_train[:train])}
    parts["test"] = (full.x_test[:test], full.y_test[:test]) if test != 0 else (full.x_train[:100], full.y_train[:100])
    if val:
        parts["val"] = (full.x_train[start : start + val], full.y_train[start : start + val])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path, **{f"{axis}_{name}": np.asarray(part[k]) for name, part in parts.items() for k, axis in enumerate("xy")}
    )
    return path
