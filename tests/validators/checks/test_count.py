"""What compares, against a budget of ReLUs and against a bound on all of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aurep.errors import AurepError
from aurep.validators import validate
from aurep.validators.checks.count import read_budget
from aurep.validators.page import to_html
from tests.validators import graphs
from tests.validators.checks.test_checks import failed, hint

POOLED = """k = Constant<value = float[4, 4, 1, 1] {VALUES}>() h = Conv<kernel_shape = [1, 1]>(x, k) BODY
 ["MaxPool_1"] p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r) y = GlobalMaxPool(p)""".replace(
    "VALUES", ", ".join(["0.5"] * 16)
)


def pooled(relu: bool, folder: Path) -> Path:
    """2 x 2 windows over 4 channels of 6 x 6 make 3 comparisons at each of 36 places, the maximum of each 9, 8."""
    lines = POOLED.replace("BODY", "r = Relu(h)" if relu else "r = Identity(h)")
    return graphs.save(graphs.body(lines, out="N, 4, 1, 1"), folder / "m.onnx")


def test_a_budget_of_relus_names_what_else_compares(tmp_path: Path) -> None:
    report = validate(pooled(relu=False, folder=tmp_path), budget=0)
    assert report.passed, report
    said = "0 ReLUs; MaxPool_1 and y still make 140 comparisons per image"
    assert said in hint(report, "relu-count")
    assert said in to_html(report)
    assert json.loads(report.to_json())["poolings"] == {"MaxPool_1": 108, "y": 32}
    report = validate(pooled(relu=True, folder=tmp_path), budget=0)
    assert "MaxPool_1 and y make 140" in hint(report, "relu-count")
    assert failed(report) == {"relu-count"}


@pytest.mark.parametrize(("allowed", "passes"), [(284, True), (283, False), ("100%", True), ("99%", False), (0, False)])
def test_all_comparisons_are_bounded_together(allowed: str | int, passes: bool, tmp_path: Path) -> None:
    """144 by the ReLU, 140 by the poolings; a share is of what there would be with ReLUs everywhere."""
    report = validate(pooled(relu=True, folder=tmp_path), max_comparisons=allowed)
    assert failed(report) == (set() if passes else {"comparisons"})
    assert passes or "Relu 144" in hint(report, "comparisons")


def test_max_comparisons_counts_what_a_serving_form_really_compares(tmp_path: Path) -> None:
    made = graphs.hybrid("max")
    folder = graphs.bundle(tmp_path / "b", made, graphs.claim(made, target="onnxruntime", comparisons={"Max": 144}))
    assert validate(folder, max_comparisons=144).passed
    assert failed(validate(folder, max_comparisons=143)) == {"comparisons"}


def test_what_cannot_be_counted_is_within_no_bound(tmp_path: Path) -> None:
    report = validate(graphs.save(graphs.body("y = evil.Fast(x)"), tmp_path / "m.onnx"), max_comparisons="1M")
    assert {"comparisons", "relu-count"} <= failed(report)


def test_a_bound_that_is_no_number_is_named() -> None:
    with pytest.raises(AurepError, match="max-comparisons '-3' is negative"):
        read_budget("-3", 100, "max-comparisons")


@pytest.mark.parametrize(("added", "said"), [(65535.0, False), (65536.0, True)])
def test_a_sum_that_counts_says_why(added: float, said: bool, tmp_path: Path) -> None:
    """fp32 leaves 7 bits below one at 2^16."""
    made = graphs.body(f"c = Constant<value_float = {added}>() y = Add(x, c)")
    report = validate(graphs.save(made, tmp_path / "m.onnx"), budget=0)
    assert failed(report) == ({"relu-count"} if said else set())
    assert ("Add in floats compares where a constant of 65,536 or more" in hint(report, "relu-count")) == said
