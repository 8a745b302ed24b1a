"""Accuracy on the whole test set, measured through ONNX Runtime and held against the claims."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aurep.errors import AurepError
from aurep.metadata import InputClaim, TrainingClaim
from aurep.validators.checks.tolerances import ACCURACY_POINTS
from aurep.validators.report import Check
from aurep.validators.session import Session

CHUNK = 512  # images normalised at a time


@dataclass(frozen=True)
class Bounds:
    """What the user allows: `max_drop` in points below the teacher (or the claim), `minimum` in percent."""

    max_drop: float | None = None
    minimum: float | None = None

    def __post_init__(self) -> None:
        for name, bound in (("maximum accuracy drop", self.max_drop), ("minimum accuracy", self.minimum)):
            if bound is not None and not math.isfinite(bound):
                raise AurepError(f"the {name} is {bound}, which no accuracy can be held to; give a finite number.")

    @property
    def any(self) -> bool:
        return self.max_drop is not None or self.minimum is not None


def check_accuracy(session: Session, data: Any, claim: InputClaim, training: TrainingClaim, bounds: Bounds) -> Check:
    """`data` is what `aurep.data.load_data` returns: x_test (n, C, H, W) uint8 and y_test (n,)."""
    measured = measure_accuracy(session, data, claim)
    images = len(data.y_test)
    floors: list[tuple[float, str]] = []
    problems = []
    known = training.data == getattr(data, "name", training.data)
    if training.test_accuracy is not None and known:
        slack = max(ACCURACY_POINTS, 100 / images)
        floors.append((training.test_accuracy - slack, f"the claimed {training.test_accuracy:.2f} %"))
    if bounds.minimum is not None:
        floors.append((bounds.minimum, f"the demanded {bounds.minimum:.2f} %"))
    if bounds.max_drop is not None:
        claims = [(training.teacher_test_accuracy, "teacher's"), (training.test_accuracy, "claimed")]
        # A teacher that is said to be worse than its student would make room for any drop.
        reference, name = max(((value, name) for value, name in claims if value is not None), default=(None, ""))
        if reference is None:
            problems.append("No accuracy of a teacher is claimed to measure a drop from; use --min-accuracy.")
        else:
            floors.append(
                (reference - bounds.max_drop, f"the {name} {reference:.2f} % less {bounds.max_drop:g} points")
            )
    problems += [f"{measured:.2f} % is below {why}." for floor, why in floors if measured < floor]
    allowed = max(floor for floor, _ in floors) if floors else None
    hint = " ".join(problems) or f"Percent of {images:,} test images, and the least allowed."
    return Check("accuracy", measured, allowed, not problems, hint)


def measure_accuracy(session: Session, data: Any, claim: InputClaim) -> float:
    """Percent of test images classified right."""
    if not len(data.y_test):
        raise AurepError("the data set has no test images; give one that has.")
    right = 0
    for images, labels in _batches(data, claim):
        right += int((session.run(images).argmax(1) == labels).sum())
    return 100 * right / len(data.y_test)


def _batches(data: Any, claim: InputClaim) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
    expected = claim.shape if claim.layout == "NCHW" else None
    if expected is not None and tuple(data.x_test.shape[1:]) != expected:
        raise AurepError(f"the model takes images of {expected} but the data set has {tuple(data.x_test.shape[1:])}.")
    for start in range(0, len(data.y_test), CHUNK):
        chosen = slice(start, start + CHUNK)
        images = normalised(data.x_test[chosen], claim)
        yield images.reshape(len(images), *claim.shape), data.y_test[chosen]


def normalised(images: NDArray[Any], claim: InputClaim) -> NDArray[np.float32]:
    """Pixels (n, C, H, W) uint8 -> model inputs float32, as `claim` says."""
    low, high = claim.range
    scaled = images.astype(np.float32) / np.float32(255)
    if (low, high) != (0.0, 1.0):
        scaled = scaled * np.float32(high - low) + np.float32(low)
    if claim.mean is not None and claim.std is not None:
        shape = (-1, 1, 1)
        scaled = (scaled - np.asarray(claim.mean, np.float32).reshape(shape)) / np.asarray(
            claim.std, np.float32
        ).reshape(shape)
    return scaled.astype(np.float32, copy=False)


def load(name: str, data_dir: Path | None, claim: InputClaim, download: bool) -> Any:
    """The test set at the model's input size. Raises AurepError."""
    from aurep.data import load_data

    return load_data(
        name,
        data_dir,
        input_size=claim.shape[1:] if claim.layout == "NCHW" else None,
        interpolation=claim.interpolation,
        crop_pct=claim.crop_pct,
        download=download,
    )
