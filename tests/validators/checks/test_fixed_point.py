"""Fixed point is simulated as the frameworks round, and overflow is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from aurep.errors import AurepError
from aurep.frameworks import FixedPoint
from aurep.truncation import in_fixed_point
from aurep.validators import validate
from aurep.validators.checks.fixed_point import FixedPointModel
from tests.validators import graphs


@pytest.mark.parametrize("text", ["64", "16:64", "64:32", "a:b", "64:0", "999:1"])
def test_malformed_fixed_point(text: str) -> None:
    with pytest.raises(AurepError, match="RING:FRACTION"):
        FixedPoint.parse(text)


@pytest.mark.parametrize(("text", "passes"), [("64:16", True), ("32:14", False), ("64:2", False)])
def test_fixed_point_finds_overflow_and_coarse_rounding(text: str, passes: bool, bundle: Path) -> None:
    """Values reach some tens: 64:16 leaves room, 32:14 leaves 2^3, and two fraction bits change classes."""
    report = validate(bundle, fixed_point=text)
    (check,) = [check for check in report.checks if check.name == "fixed-point"]
    assert check.passed is passes, check


def test_the_simulation_rounds_every_product(bundle: Path) -> None:
    fraction = 3
    fixed = FixedPointModel(onnx.load(bundle / "model.onnx"), "cpu")
    inputs = np.random.default_rng(0).normal(size=(2, *graphs.SHAPE)).astype(np.float32)
    logits = fixed.predict(inputs, FixedPoint(64, fraction)).logits
    assert np.array_equal(logits * 2**fraction, np.round(logits * 2**fraction))
    _, probes = in_fixed_point(fixed.plain, fixed.tensors, FixedPoint(64, fraction), "probabilistic")
    assert set(probes.values()) >= {"conv", "head", "act/Relu"}


def test_targets_have_their_frameworks_defaults(tmp_path: Path) -> None:
    made = graphs.hybrid()
    report = validate(graphs.bundle(tmp_path / "b", made, graphs.claim(made, target="spu")))
    (check,) = [check for check in report.checks if check.name == "fixed-point"]
    assert check.passed
    assert str(check.allowed).startswith("< 1.34e+08")  # 2^(63 - 36)


def test_samples_that_are_all_tame_hide_no_overflow(tmp_path: Path) -> None:
    """The file's author chose them; the data set is the user's."""
    folder = graphs.bundle(tmp_path / "b", made := graphs.hybrid())
    inputs = np.random.default_rng(1).normal(size=(6, *graphs.SHAPE)).astype(np.float32) / 64
    logits = graphs.reference(made.model, inputs)
    np.savez(folder / "samples.npz", inputs=inputs, logits=logits, labels=logits.argmax(1))
    images = np.random.default_rng(2).integers(0, 256, (8, *graphs.SHAPE)).astype(np.uint8)
    labels = np.arange(8) % graphs.CLASSES
    np.savez(tmp_path / "d.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    passed = []
    for data in (None, f"npz:{tmp_path / 'd.npz'}"):
        checks = {check.name: check for check in validate(folder, fixed_point="36:16", data=data).checks}
        passed.append(checks["fixed-point"].passed)
    assert passed == [True, False], checks["fixed-point"]
