"""Plots: what they show, that they are the same bytes every time, and what a page says without matplotlib."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from aurep import AurepError
from aurep.results import ComparisonRow, Cost
from aurep.training.compare_page import comparison_page, front
from aurep.training.metrics import EpochRow
from aurep.training.plots import draw_comparison, draw_cost, draw_epochs, svg


def row(method: str, count: int, mean: float, spread: float = 0.5, rounds: float = 9.0) -> ComparisonRow:
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
        relu_sites=1.0,
        costs=[Cost("crypten Beaver", count / 10, rounds), Cost("spu SEMI2K", count / 20, None)],
    )


ROWS = [row("ours", 100, 80.0), row("ours", 0, 60.0, 2.0), row("<theirs>", 100, 70.0)]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8))
def test_front_is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    """Independently: along the front both cost and accuracy rise, and every other row is beaten by one of it."""
    rows = [row("m", cost, float(accuracy)) for cost, accuracy in points]
    best = [(r.relu_count, r.mean) for r in front(rows, lambda r: r.relu_count)]
    distinct = sorted(set(best))
    assert best == sorted(best)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(distinct))
    for cost, accuracy in points:
        assert any(c <= cost and m >= accuracy for c, m in distinct)
    assert set(best) <= {(c, float(m)) for c, m in points}


def test_accuracy_over_rounds_is_drawn_with_its_front() -> None:
    rows = [row("ours", 100, 80.0, rounds=30.0), row("few sites", 90, 75.0, rounds=12.0), row("bad", 100, 70.0)]
    axes = Figure().subplots()
    best = front(rows, lambda r: r.costs[0].rounds or 0.0)
    draw_cost(axes, rows, "crypten Beaver rounds", lambda r: r.costs[0].rounds or 0.0, best)
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[9, 70], [12, 75], [30, 80]])
    assert [tuple(c.lines[0].get_xydata()[0]) for c in axes.containers] == [(30, 80), (12, 75), (9, 70)]
    page = comparison_page(rows, [0], [], "")
    assert "Over crypten Beaver rounds of an inference" in page
    assert "Over spu SEMI2K rounds" not in page
    assert "<td>ReLUs, crypten Beaver MB, crypten Beaver rounds, spu SEMI2K MB</td>" in page  # of "ours" and others
    assert page.count("<td>crypten Beaver rounds</td>") == 1


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
