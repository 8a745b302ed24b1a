"""The range certificate: honest ones pass; inputs that leave it are named, and so are claims that promise too much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from aurep.metadata import FractionBits, RangeClaim, SiteRange
from aurep.ranges import certified, columns, polynomial_error
from aurep.truncation import MODES
from aurep.validators import Check, validate, validation
from aurep.validators.checks.ranges import beyond
from tests.validators import graphs


def inputs_of_the_site(inputs: NDArray[np.float32], made: graphs.Hybrid) -> NDArray[np.float32]:
    """The conv, written out: x padded, windows times weights."""
    weight = numpy_helper.to_array(graphs.initializer(made.model, "weight"))
    padded = np.pad(inputs, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight).astype(np.float32)


def honest(made: graphs.Hybrid, scale: float = 1.0, **changes: Any) -> RangeClaim:
    """Of the bundle's own samples, times `scale`."""
    inputs = np.random.default_rng(1).normal(size=(6, *graphs.SHAPE)).astype(np.float32)
    seen = scale * inputs_of_the_site(inputs, made)
    low, high = seen.min((0, 2, 3)), seen.max((0, 2, 3))
    wide = (columns(bound, graphs.SHAPE) for bound in certified(low, high))
    table = np.broadcast_to(made.coefficients[:, None, None], (*graphs.SHAPE, 3))
    error = (polynomial_error(table, *wide) * ~made.mask).max()
    site = SiteRange(
        name="act",
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        quantiles=tuple(np.quantile(seen, [0.001, 0.01, 0.5, 0.99, 0.999]).tolist()),
        polynomial_error=changes.pop("polynomial_error", float(error)),
    )
    return RangeClaim(data="samples", images=6, sites=(site,), **changes)


def checked(folder: Path, made: graphs.Hybrid, ranges: RangeClaim, **options: Any) -> Check:
    bundle = graphs.bundle(folder / "b", made, graphs.claim(made, ranges=ranges))
    (check,) = [check for check in validate(bundle, **options).checks if check.name == "range"]
    return check


@pytest.mark.parametrize("form", ["gather", "mask", "max", "power"])
def test_an_honest_certificate_passes(form: str, tmp_path: Path) -> None:
    made = graphs.hybrid(form)
    check = checked(tmp_path, made, honest(made))
    assert check.passed, check
    (site,) = check.detail["sites"]
    assert site["beyond"] == 0
    assert site["seen"] == pytest.approx(site["measured"], rel=1e-4)


def test_inputs_that_leave_it_are_named_with_site_and_channel(tmp_path: Path) -> None:
    """Made of inputs a tenth of the samples' size."""
    made = graphs.hybrid()
    check = checked(tmp_path, made, honest(made, 0.1))
    assert not check.passed
    (site,) = check.detail["sites"]
    assert f"act, channel {site['channel']}: inputs reach from" in check.hint
    assert site["beyond"] > 0
    assert check.measured == "1 of 1 sites left"


def test_an_understated_polynomial_error_fails(tmp_path: Path) -> None:
    made = graphs.hybrid()
    check = checked(tmp_path, made, honest(made, polynomial_error=0.01))
    assert not check.passed
    assert "said are 0.01" in check.hint


@pytest.mark.parametrize(("bits", "passes"), [(2, False), (16, True)])
def test_fraction_bits_are_tried_again(bits: int, passes: bool, tmp_path: Path) -> None:
    made = graphs.hybrid()
    claimed = FractionBits(ring=64, **dict.fromkeys(MODES, bits))
    check = checked(tmp_path, made, honest(made, fraction_bits=claimed), fixed_point="64:16")
    assert check.passed is passes, check


@pytest.mark.parametrize(("times", "out"), [(1.0, 0), (2.0, 0), (100.0, 4), (np.inf, 4)])
def test_drawn_images_that_leave_it_far_behind_are_left_out(
    times: float, out: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Certified are twice the span of the samples' own inputs; what is twice a sample stays within."""
    made = graphs.hybrid()
    images = np.random.default_rng(1).normal(size=(8, *graphs.SHAPE)).astype(np.float32)
    images[:4] *= np.float32(times)
    monkeypatch.setattr("aurep.validators.checks.inputs.drawn", lambda *_: images)
    bundle = graphs.bundle(tmp_path / "b", made, graphs.claim(made, ranges=honest(made)))
    report = validation.validate(bundle)
    assert report.passed, report
    assert any(note.startswith(f"On {2 * out} of 16 images drawn") for note in report.notes) == bool(out)


def test_how_far_it_is_left_is_told_in_widths_of_the_site() -> None:
    row = SiteRange(name="act", low=(-1.0, 0.0), high=(1.0, 2.0), quantiles=(0.0,) * 5, polynomial_error=0.0)
    claim = RangeClaim(data="", images=1, sites=(row,))
    low, high = certified(row.low, row.high)  # -2 to 3 of both channels together
    for least, most, expected in ((-2.0, 3.0, 0.0), (-4.5, 0.0, 0.5), (0.0, 13.0, 2.0), (0.0, np.nan, np.inf)):
        assert beyond(claim, {"act": (low * 0 + least, high * 0 + most)}) == expected
    assert beyond(claim, {}) == 0


def test_without_a_certificate_there_is_no_check(bundle: Path) -> None:
    assert "range" not in {check.name for check in validate(bundle).checks}
