"""Plots: what they show, that they are the same bytes every time, and what a page says without matplotlib."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from aurep import AurepError
from aurep.results import ComparisonRow
from aurep.training.compare_page import comparison_page
from aurep.training.metrics import EpochRow
from aurep.training.plots import draw_comparison, draw_epochs, svg


def row(method: str, count: int, mean: float, spread: float = 0.5) -> ComparisonRow:
    return ComparisonRow(
        method=method,
        budget=str(count),
        relu_count=count,
        relu_total=1000,
        degree=2,
        seeds=[0],
        diverged=[],
        val_accuracy=[mean],
        test_accuracy=[mean],
        mean=mean,
        spread=spread,
        teacher_mean=90.0,
        seconds=1.0,
    )


ROWS = [row("ours", 100, 80.0), row("ours", 0, 60.0, 2.0), row("<theirs>", 100, 70.0)]


def epoch(phase: str, val: float | None, count: int | None) -> EpochRow:
    return EpochRow(
        phase=phase,
        epoch=1,
        lr=0.1,
        train_loss=1.0,
        train_accuracy=50.0,
        val_accuracy=val,
        relu_count=count,
        seconds=1.0,
        images_per_second=1.0,
    )


def test_comparison_shows_every_row_where_it_belongs() -> None:
    axes = Figure().subplots()
    draw_comparison(axes, ROWS)
    ours, theirs = (container.lines[0] for container in axes.containers)
    np.testing.assert_array_equal(ours.get_xydata(), [[0, 60], [100, 80]])
    np.testing.assert_array_equal(theirs.get_xydata(), [[100, 70]])
    (bars,) = axes.containers[0].lines[2]
    np.testing.assert_allclose([segment[:, 1] for segment in bars.get_segments()], [[58, 62], [79.5, 80.5]])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "100"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ours", "<theirs>"]
    places = axes.transData.transform([[0, 80], [100, 80]])
    assert places[1, 0] - places[0, 0] > 50  # zero has a place of its own on the log scale


def test_comparison_without_any_relu_has_a_scale() -> None:
    assert "<svg" in svg(lambda axes: draw_comparison(axes, [row("ours", 0, 60.0)]))


def test_epochs_leave_out_what_was_not_measured() -> None:
    axes = Figure().subplots()
    rows = [epoch("baseline", 40.0, None), epoch("search", None, 9), epoch("search", 50.0, 7)]
    draw_epochs(axes, rows, ["val_accuracy"])
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[1, 40], [3, 50]])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["baseline", "search"]
    axes.clear()
    draw_epochs(axes, rows, ["relu_count"])
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[2, 9], [3, 7]])


def test_one_value_gives_the_same_bytes_in_every_process() -> None:
    code = "from tests.toolkit.training.test_plots import *; "
    code += "sys.stdout.write(svg(lambda axes: draw_comparison(axes, ROWS)))"
    drawn = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)]
    assert drawn[0] == drawn[1] == svg(lambda axes: draw_comparison(axes, ROWS)).encode()
    assert b"<date>" not in drawn[0]


def test_a_page_without_matplotlib_keeps_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def page() -> str:
        return comparison_page(ROWS, [0], [], "")

    whole = page()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(AurepError, match=r'pip install "aurep\[report\]"'):
        svg(lambda _: None)
    assert "<svg" in whole
    assert "<svg" not in page()
    assert "pip install &quot;aurep[report]&quot;" in page()
    assert whole[whole.index("<table") :] == page()[page().index("<table") :]
    assert "&lt;theirs&gt;" in page()
