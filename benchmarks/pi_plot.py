"""Activation traffic over the share of ReLUs kept, a line a framework, a cross for the mask form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aurep.training.plots import COLOURS, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot(rows: Sequence[dict[str, Any]], total: int) -> str:
    """SVG text. x: share kept, 0..100 %; y: activation traffic in MB."""

    def draw(axes: Axes) -> None:
        for framework, colour in zip(("crypten", "spu"), COLOURS, strict=False):
            own = [row for row in rows if row["framework"] == framework]
            for form, marker, line in (("gather", "o", "-"), ("mask", "x", "")):
                points = sorted(_point(row, total) for row in own if row["form"] == form)
                label = framework if form == "gather" else f"{framework}, mask form"
                if points:
                    axes.plot(*zip(*points, strict=True), color=colour, marker=marker, linestyle=line, label=label)
        axes.set_xlabel("ReLUs kept, %")
        axes.set_ylabel("activation traffic of one inference,\nMB on the wire")
        axes.set_ylim(bottom=0)
        axes.legend()

    return svg(draw, 4.5)


def _point(row: dict[str, Any], total: int) -> tuple[float, float]:
    return 100 * row["kept"] / total, float(row["measured"]["traffic"]["activations_total"]) / 1e6
