"""Accuracy on the whole test set, measured through ONNX Runtime and held against the claims.

Every figure comes with its 95 % interval (`intervals`), so that a reader can tell a loss from noise. Bounds are held
against the estimate itself, since a bound is an agreement on a figure, or, on request, against the interval's worse
end: "we are sure that it loses no more". What a file claims of itself is always compared as a figure, for it was
measured on these very images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from aurep.errors import AurepError
from aurep.metadata import InputClaim, TrainingClaim
from aurep.validators.checks.intervals import Drop, Interval, Right, paired_drop, proportion
from aurep.validators.checks.tolerances import ACCURACY_POINTS
from aurep.validators.report import Check
from aurep.validators.session import Session

TORCH_BATCH = 256  # images at a time through the reference network
Progress = Callable[[int, int], None]  # images done, of how many
Decided = Literal["estimate", "bound"]


@dataclass(frozen=True)
class Bounds:
    """What the user allows: `max_drop` in points below the teacher (or the claim), `minimum` in percent.

    `by` is what decides: the estimate, or the worse end of its interval.
    """

    max_drop: float | None = None
    minimum: float | None = None
    by: Decided = "estimate"

    def __post_init__(self) -> None:
        for name, bound in (("maximum accuracy drop", self.max_drop), ("minimum accuracy", self.minimum)):
            if bound is not None and not math.isfinite(bound):
                raise AurepError(f"the {name} is {bound}, which no accuracy can be held to; give a finite number.")

        if self.by not in get_args(Decided):
            raise AurepError(f"accuracy is decided by 'estimate' or 'bound', not {self.by!r}.")

    @property
    def any(self) -> bool:
        return self.max_drop is not None or self.minimum is not None


@dataclass(frozen=True)
class Reference:
    """A network's answers on the same images: `right` (n,) bool. `name` is whose, in the genitive."""

    name: str
    right: Right


def check_accuracy(
    session: Session,
    data: Any,
    claim: InputClaim,
    training: TrainingClaim,
    bounds: Bounds,
    reference: Reference | None = None,
    progress: Progress = lambda done, of: None,
) -> Check:
    """`data` is what `aurep.data.load_data` returns: x_test (n, C, H, W) uint8 and y_test (n,).

    With a `reference` network the drop is taken image by image on the same images; without, from the accuracy that is
    claimed of the teacher (or of the network itself), which counts as exact.
    """
    right = classified_right(session, data, claim, progress)
    share = proportion(right)
    accuracy = share.at(bounds.by)
    drop = _drop(right, share, training, bounds, reference)
    floors: list[tuple[float, str]] = []
    problems = []
    known = training.data == getattr(data, "name", training.data)
    if training.test_accuracy is not None and known:
        slack = max(ACCURACY_POINTS, 100 / len(right))
        floors.append((training.test_accuracy - slack, f"the claimed {training.test_accuracy:.2f} %"))
        if share.value < floors[0][0]:
            problems.append(f"{share.value:.2f} % is below {floors[0][1]}.")
    if bounds.minimum is not None:
        floors.append((bounds.minimum, f"the demanded {bounds.minimum:.2f} %"))
        if accuracy < bounds.minimum:
            problems.append(f"{_said(accuracy, bounds)} is below {floors[-1][1]}.")
    if bounds.max_drop is not None and drop is None:
        problems.append("No accuracy of a teacher is claimed to measure a drop from; use --min-accuracy.")
    elif bounds.max_drop is not None and drop is not None:
        why = f"the {drop.of} {drop.reference:.2f} % less {bounds.max_drop:g} points"
        floors.append((drop.reference - bounds.max_drop, why))
        # In a share of wrong images nothing is exact: 100 - 95.1 - 4.9 is not 0 in floats.
        if drop.interval.at_most(bounds.by) > bounds.max_drop + 1e-9:
            problems.append(f"{_said(accuracy, bounds)} is below {why}.")
    allowed = max(floor for floor, _ in floors) if floors else None
    told = [f"{share} % of {len(right):,} test images"] + ([str(drop)] if drop is not None else [])
    hint = " ".join([*problems, "; ".join(told) + "."])
    detail: dict[str, Any] = {"images": len(right), "interval": [share.low, share.high], "decided_by": bounds.by}
    if drop is not None:
        detail.update(drop.detail())
    return Check("accuracy", share.value, allowed, not problems, hint, detail)


def _said(accuracy: float, bounds: Bounds) -> str:
    return f"{accuracy:.2f} %" + (", the interval's end," if bounds.by == "bound" else "")


def _drop(
    right: Right, share: Interval, training: TrainingClaim, bounds: Bounds, reference: Reference | None
) -> Drop | None:
    if reference is not None:
        return paired_drop(right, reference.right, reference.name)
    claims = [(training.teacher_test_accuracy, "teacher's"), (training.test_accuracy, "claimed")]
    # A teacher that is said to be worse than its student would make room for any drop.
    known, name = max(((value, name) for value, name in claims if value is not None), default=(None, ""))
    if known is None or bounds.max_drop is None:
        return None
    return Drop(name, known, Interval(known - share.value, known - share.high, known - share.low))


def classified_right(session: Session, data: Any, claim: InputClaim, progress: Progress) -> Right:
    """Per test image, whether the session's top-1 class is its label."""
    count = len(data.y_test)
    if not count:
        raise AurepError("the data set has no test images; give one that has.")
    right = np.zeros(count, bool)
    done = 0
    for images, labels in _batches(data, claim, session.rows):
        right[done : done + len(labels)] = session.run(images).argmax(1) == labels
        done += len(labels)
        progress(done, count)
    return right


def reference_of(run: Any, data: Any, claim: InputClaim) -> Reference:
    """The teacher of `run`, an `aurep.training.Run`, on the same test images."""
    import torch

    right = []
    with torch.no_grad():
        for images, labels in _batches(data, claim, TORCH_BATCH):
            right.append(run.teacher(torch.from_numpy(images)).argmax(1).numpy() == labels)
    return Reference("teacher's", np.concatenate(right))


def _batches(data: Any, claim: InputClaim, size: int) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
    """Model inputs with their labels, the next batch made while the last one is used."""
    expected = claim.shape if claim.layout == "NCHW" else None
    if expected is not None and tuple(data.x_test.shape[1:]) != expected:
        raise AurepError(f"the model takes images of {expected} but the data set has {tuple(data.x_test.shape[1:])}.")
    table = pixel_table(claim, data.x_test.shape[1])

    def prepare(start: int) -> tuple[NDArray[np.float32], NDArray[Any]]:
        chosen = slice(start, start + size)
        images = looked_up(data.x_test[chosen], table)
        return images.reshape(len(images), *claim.shape), data.y_test[chosen]

    starts = range(0, len(data.y_test), size)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(prepare, 0)
        for start in starts:
            ready = waiting.result()
            if start + size < len(data.y_test):
                waiting = pool.submit(prepare, start + size)
            yield ready


def first_inputs(data: Any, claim: InputClaim, count: int) -> NDArray[np.float32]:
    """The first test images, as the model takes them."""
    images = normalised(data.x_test[:count], claim)
    return images.reshape(len(images), *claim.shape)


def normalised(images: NDArray[Any], claim: InputClaim) -> NDArray[np.float32]:
    """Pixels (n, C, H, W) uint8 -> model inputs float32, as `claim` says."""
    return looked_up(images, pixel_table(claim, images.shape[1]))


def looked_up(images: NDArray[Any], table: NDArray[np.float32]) -> NDArray[np.float32]:
    """One pass over the pixels where dividing, subtracting and dividing again would be three."""
    found = np.empty(images.shape, np.float32)
    for channel, values in enumerate(table):
        np.take(values, images[:, channel], out=found[:, channel], mode="clip")
    return found


def pixel_table(claim: InputClaim, channels: int) -> NDArray[np.float32]:
    """(channels, 256): the input that a pixel becomes."""
    low, high = claim.range
    scaled = np.arange(256, dtype=np.float32)[None].repeat(channels, 0) / np.float32(255)
    if (low, high) != (0.0, 1.0):
        scaled = scaled * np.float32(high - low) + np.float32(low)
    if claim.mean is not None and claim.std is not None:
        mean, std = (np.asarray(values, np.float32).reshape(-1, 1) for values in (claim.mean, claim.std))
        scaled = (scaled - mean) / std
    return scaled.astype(np.float32, copy=False)


def load(name: str, data_dir: Path | None, claim: InputClaim) -> Any:
    """The test set at the model's input size, from this machine. Raises AurepError."""
    from aurep.data import load_data

    return load_data(
        name,
        data_dir,
        input_size=claim.shape[1:] if claim.layout == "NCHW" else None,
        interpolation=claim.interpolation,
        crop_pct=claim.crop_pct,
        download=False,
    )
