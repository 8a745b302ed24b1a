"""Accuracy is measured on the images, and held against claims and bounds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from aurep.errors import AurepError
from aurep.metadata import InputClaim, Metadata, TrainingClaim
from aurep.validators.checks.accuracy import Bounds, check_accuracy
from aurep.validators.session import Session
from aurep.validators.validation import validate  # in this process, where things can be put in its way
from tests.validators import graphs


@pytest.fixture
def toy(bundle: Path) -> tuple[Session, SimpleNamespace, InputClaim]:
    """A session, ten images it classifies all right but two, and how they become inputs."""
    model = onnx.load(bundle / "model.onnx")
    images = np.random.default_rng(3).integers(0, 256, (10, *graphs.SHAPE), dtype=np.uint8)
    claim = InputClaim(shape=graphs.SHAPE, mean=(0.5, 0.4, 0.3, 0.2), std=(0.1, 0.2, 0.3, 0.4))
    scaled = (images / 255 - np.reshape(claim.mean or (), (4, 1, 1))) / np.reshape(claim.std or (), (4, 1, 1))
    labels = graphs.reference(model, scaled.astype(np.float32)).argmax(1)
    labels[:2] = (labels[:2] + 1) % graphs.CLASSES
    return Session(model, "cpu"), SimpleNamespace(name="toy", x_test=images, y_test=labels), claim


@pytest.mark.parametrize(
    ("claimed", "teacher", "bounds", "passes"),
    [
        (None, None, Bounds(), True),
        (80.0, None, Bounds(), True),
        (91.0, None, Bounds(), False),
        (None, None, Bounds(minimum=80.0), True),
        (None, None, Bounds(minimum=80.5), False),
        (None, 85.0, Bounds(max_drop=5.0), True),
        (None, 85.0, Bounds(max_drop=4.9), False),
        (85.0, None, Bounds(max_drop=4.9), False),
        (None, None, Bounds(max_drop=50.0), False),
    ],
)
def test_accuracy_bounds(
    toy: tuple[Session, SimpleNamespace, InputClaim],
    claimed: float | None,
    teacher: float | None,
    bounds: Bounds,
    passes: bool,
) -> None:
    training = TrainingClaim(data="toy", test_accuracy=claimed, teacher_test_accuracy=teacher)
    check = check_accuracy(*toy, training, bounds)
    assert check.measured == 80.0
    assert check.passed is passes, check


def test_accuracy_through_validate(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, *graphs.SHAPE), dtype=np.uint8)
    toy = SimpleNamespace(name="toy", x_test=images, y_test=np.zeros(8, np.int64))
    monkeypatch.setattr("aurep.validators.checks.accuracy.load", lambda *_, **__: toy)
    report = validate(bundle, data="toy", min_accuracy=100.0)
    assert {check.name for check in report.checks if not check.passed} == {"accuracy"}


def test_an_accuracy_bound_needs_data(bundle: Path) -> None:
    with pytest.raises(AurepError, match="--data"):
        validate(bundle, min_accuracy=50)


@pytest.mark.parametrize("bound", [{"min_accuracy": float("nan")}, {"max_accuracy_drop": float("inf")}])
def test_a_bound_that_nothing_can_break_is_refused(bundle: Path, bound: dict[str, float]) -> None:
    with pytest.raises(AurepError, match="finite number"):
        validate(bundle, data="toy", **bound)


def test_an_understated_teacher_makes_no_room(toy: tuple[Session, SimpleNamespace, InputClaim]) -> None:
    """A teacher said to be worse than its student is not what a drop is measured from."""
    training = TrainingClaim(data="other", test_accuracy=90.0, teacher_test_accuracy=1.0)
    assert not check_accuracy(*toy, training, Bounds(max_drop=2.0)).passed


@pytest.mark.parametrize("accuracy", [float("nan"), -1.0, 101.0, float("inf")])
def test_an_accuracy_that_is_none_is_refused(accuracy: float) -> None:
    honest = graphs.claim(graphs.hybrid()).model_dump(by_alias=True)
    with pytest.raises(AurepError, match="teacher_test_accuracy"):
        Metadata.check({**honest, "training": {"teacher_test_accuracy": accuracy}})
