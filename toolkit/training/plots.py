"""The plots of reports as SVG, drawn by matplotlib (extra `aurep[report]`). The same data gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from aurep.errors import AurepError
from aurep.results import ComparisonRow
from aurep.training.metrics import EpochRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Drawn = Literal["train_accuracy", "val_accuracy", "relu_count"]
# Okabe and Ito's palette: told apart by readers with any colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c510a")
_GREY, _LIGHT = "#57606a", "#d8dee4"
_STYLE: dict[Any, Any] = {  # matplotlib types its keys one by one
    "svg.hashsalt": "aurep",  # ids inside the file, otherwise random
    "svg.fonttype": "none",  # text stays text
    "font.size": 9,
    "text.color": _GREY,
    "axes.edgecolor": _LIGHT,
    "axes.labelcolor": _GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _LIGHT,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "legend.frameon": False,
}


def svg(draw: Callable[[Axes], None], height: float = 3.0) -> str:
    """What `draw` puts into one pair of axes, 8 by `height` inches.

    Raises:
        AurepError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AurepError(f'plots need matplotlib ({error}); pip install "aurep[report]".') from error
    text = io.StringIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=(8, height), layout="constrained")
        draw(figure.subplots())
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=nothing)
    return text.getvalue()


def draw_epochs(axes: Axes, rows: Sequence[EpochRow], keys: Sequence[Drawn]) -> None:
    """Lines of `keys` over a run's epochs, its phases side by side."""
    for key, colour in zip(keys, (COLOURS[0], COLOURS[1]), strict=False):
        points = [(index, value) for index, row in enumerate(rows, 1) if (value := row[key]) is not None]
        axes.plot(*zip(*points, strict=True), color=colour, marker=".", label=key.replace("_", " "))
    starts = [i for i, row in enumerate(rows) if i == 0 or row["phase"] != rows[i - 1]["phase"]]
    for start in starts:
        axes.axvline(start + 0.5, color=_LIGHT)
    axes.set_xticks([start + 0.5 for start in starts], [rows[start]["phase"] for start in starts], ha="left")
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(0.5, len(rows) + 0.5)
    axes.yaxis.set_major_formatter("{x:,.4g}" if "relu_count" not in keys else "{x:,.0f}")
    if len(keys) > 1:
        axes.legend()


def draw_comparison(axes: Axes, rows: Sequence[ComparisonRow]) -> None:
    """Test accuracy over ReLUs kept: a line a method, the spread over seeds, the best teacher."""
    counts = sorted({row.relu_count for row in rows})
    # Logarithmic down to the smallest count; zero stands to its left.
    axes.set_xscale("symlog", linthresh=min((count for count in counts if count), default=1), linscale=0.5)
    _draw_methods(axes, rows, lambda row: row.relu_count)
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("ReLU elements kept (log scale)")


def draw_cost(
    axes: Axes,
    rows: Sequence[ComparisonRow],
    name: str,
    cost: Callable[[ComparisonRow], float],
    front: Sequence[ComparisonRow],
) -> None:
    """Test accuracy over what an inference costs, and the steps along the Pareto `front`, cheapest first."""
    axes.step(*_points(front, cost), where="post", color=_LIGHT, linewidth=4, label="Pareto front", zorder=0)
    _draw_methods(axes, rows, cost)
    axes.set_xlabel(name)
    axes.set_xlim(left=0)


def _draw_methods(axes: Axes, rows: Sequence[ComparisonRow], cost: Callable[[ComparisonRow], float]) -> None:
    for index, method in enumerate(dict.fromkeys(row.method for row in rows)):
        own = sorted((row for row in rows if row.method == method), key=cost)
        spreads = [row.spread for row in own]
        colour = COLOURS[index % len(COLOURS)]
        axes.errorbar(*_points(own, cost), yerr=spreads, color=colour, marker="o", label=method)
    teacher = max(row.teacher_mean for row in rows)
    axes.axhline(teacher, color=_GREY, linestyle="--", linewidth=1)
    axes.annotate("teacher, all ReLU", (0, teacher), (2, 3), ("axes fraction", "data"), textcoords="offset points")
    axes.set_ylabel("test accuracy, %")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def _points(rows: Sequence[ComparisonRow], cost: Callable[[ComparisonRow], float]) -> tuple[list[float], list[float]]:
    return [cost(row) for row in rows], [row.mean for row in rows]
