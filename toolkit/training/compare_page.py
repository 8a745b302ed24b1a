"""`comparison.html`: accuracy over kept ReLUs, method by method, with the spread over seeds. Opens offline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from aurep.training.report import STYLE, table

_PLOT, _HEIGHT, _LEFT, _TOP, _BOTTOM = 580, 420, 52, 12, 44  # pixels; the names stand to the right of the plot
_LETTER = 7.0  # pixels that one takes at most, on average
_ZERO_APART = 0.25  # of the other counts' range, in decades at least the same: where zero stands, left of them
# Okabe and Ito's palette: told apart by readers with any colour vision.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c510a")


@dataclass(frozen=True)
class Row:
    """The runs of one method at one budget.

    Args:
        seeds, val_accuracy, test_accuracy: of the runs that ended; in percent.
        diverged: seeds of the others.
        mean, spread: of the test accuracy over seeds, with the sample deviation.
        teacher_mean: test accuracy of the teachers.
        seconds: of training, mean over seeds.
    """

    method: str
    budget: str
    relu_count: int
    relu_total: int
    degree: int
    seeds: list[int]
    diverged: list[int]
    val_accuracy: list[float | None]
    test_accuracy: list[float]
    mean: float
    spread: float
    teacher_mean: float
    seconds: float


def comparison_page(rows: Sequence[Row], seeds: Sequence[int], diverged: Sequence[str], config_toml: str) -> str:
    """The page of a comparison; `diverged` names runs."""
    lines = [
        (
            row.method,
            row.relu_count,
            100 * row.relu_count / row.relu_total,
            row.degree,
            row.teacher_mean,
            row.mean,
            f"± {row.spread:.2f}",
            round(row.seconds),
        )
        for row in sorted(rows, key=lambda row: (row.relu_count, -row.mean))
    ]
    head = ("method", "ReLUs", "%", "degree", "teacher test %", "test %", "spread", "seconds")
    return "\n".join(
        [
            f"<!doctype html><html lang='en'><meta charset='utf-8'><title>aurep compare</title><style>{STYLE}</style>",
            f"<h1>Test accuracy over kept ReLUs</h1><p>Mean and standard deviation over {len(seeds)} "
            f"seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))}); one teacher per seed "
            "for all methods.</p>",
            chart(rows),
            table(head, lines),
            f"<p>Diverged, and not part of the above: {escape(', '.join(diverged))}.</p>" if diverged else "",
            f"<h2>Recipe</h2><pre>{escape(config_toml)}</pre></html>",
        ]
    )


def chart(rows: Sequence[Row]) -> str:
    """SVG: x is ReLUs kept on a log scale, with zero to the left of it; y is the test accuracy in percent."""
    if not rows:
        return "<p>No run ended with a network.</p>"
    scale = _Scale(rows)
    methods = list(dict.fromkeys(row.method for row in rows))
    width = _LEFT + _PLOT + 12 + _LETTER * max(map(len, methods))
    parts = [
        f"<svg viewBox='0 0 {width:.0f} {_HEIGHT}' font-family='system-ui, sans-serif' font-size='12' fill='#57606a' "
        "role='img' aria-label='test accuracy over ReLUs kept'>"
    ]
    parts += scale.axes(sorted({row.relu_count for row in rows}))
    labels: list[tuple[float, str, str]] = []
    for index, method in enumerate(methods):
        own = sorted((row for row in rows if row.method == method), key=lambda row: row.relu_count)
        colour = _COLOURS[index % len(_COLOURS)]
        parts += _series(own, colour, scale)
        labels.append((scale.y(own[-1].mean), colour, method))
    return "".join([*parts, *_spread_labels(labels), "</svg>"])


class _Scale:
    def __init__(self, rows: Sequence[Row]) -> None:
        low = min(row.mean - row.spread for row in rows)
        high = max(row.teacher_mean for row in rows)
        high = max(high, max(row.mean + row.spread for row in rows))
        self.low, self.high = math.floor(low), math.ceil(high)
        if self.low == self.high:
            self.high += 1
        self.teacher = max(row.teacher_mean for row in rows)
        decades = [math.log10(row.relu_count) for row in rows if row.relu_count] or [0.0]
        self.zero = min(decades) - _ZERO_APART * max(1.0, max(decades) - min(decades))
        places = [self.place(row.relu_count) for row in rows]
        self.left, self.right = min(places), max(places)

    def place(self, count: int) -> float:
        return math.log10(count) if count else self.zero

    def x(self, count: int) -> float:
        share = (self.place(count) - self.left) / (self.right - self.left) if self.right > self.left else 0.5
        return _LEFT + 20 + share * (_PLOT - 40)

    def y(self, accuracy: float) -> float:
        share: float = (self.high - accuracy) / (self.high - self.low)
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * share

    def axes(self, counts: Sequence[int]) -> list[str]:
        parts = []
        step = max(1, math.ceil((self.high - self.low) / 8))
        for tick in range(self.low, self.high + 1, step):
            parts.append(_across(self.y(tick), "stroke='#d8dee4'"))
            parts.append(f"<text x='{_LEFT - 6}' y='{self.y(tick) + 4:.1f}' text-anchor='end'>{tick} %</text>")
        for count in counts:
            parts.append(
                f"<text x='{self.x(count):.1f}' y='{_HEIGHT - _BOTTOM + 18}' text-anchor='middle'>{count:,}</text>"
            )
        middle = _LEFT + _PLOT / 2
        parts.append(f"<text x='{middle}' y='{_HEIGHT - 6}' text-anchor='middle'>ReLU elements kept (log scale)</text>")
        y = self.y(self.teacher)
        parts.append(_across(y, "stroke='#57606a' stroke-dasharray='4 4'"))
        parts.append(f"<text x='{_LEFT + 6}' y='{y - 4:.1f}'>teacher, all ReLU</text>")
        return parts


def _across(y: float, style: str) -> str:
    return f"<line x1='{_LEFT}' x2='{_LEFT + _PLOT}' y1='{y:.1f}' y2='{y:.1f}' {style}/>"


def _series(rows: Sequence[Row], colour: str, scale: _Scale) -> list[str]:
    points = [(scale.x(row.relu_count), row) for row in rows]
    path = " ".join(f"{x:.1f},{scale.y(row.mean):.1f}" for x, row in points)
    parts = [f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>"]
    for x, row in points:
        top, bottom = scale.y(row.mean + row.spread), scale.y(row.mean - row.spread)
        parts.append(f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{top:.1f}' y2='{bottom:.1f}' stroke='{colour}'/>")
        parts.append(f"<circle cx='{x:.1f}' cy='{scale.y(row.mean):.1f}' r='3.5' fill='{colour}'/>")
    return parts


def _spread_labels(labels: Sequence[tuple[float, str, str]]) -> list[str]:
    """Names at the right edge, pushed apart where their lines end close together."""
    parts, last = [], -math.inf
    for y, colour, name in sorted(labels):
        last = max(y, last + 14)
        parts.append(f"<text x='{_LEFT + _PLOT + 8}' y='{last + 4:.1f}' style='fill:{colour}'>{escape(name)}</text>")
    return parts
