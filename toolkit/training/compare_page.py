"""`comparison.html`: accuracy over kept ReLUs, method by method, with the spread over seeds. Opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from aurep.results import ComparisonRow
from aurep.training.plots import draw_comparison
from aurep.training.report import STYLE, plot, table


def comparison_page(
    rows: Sequence[ComparisonRow], seeds: Sequence[int], diverged: Sequence[str], config_toml: str
) -> str:
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
            plot(lambda axes: draw_comparison(axes, rows), 4.5) if rows else "<p>No run ended with a network.</p>",
            table(head, lines),
            f"<p>Diverged, and not part of the above: {escape(', '.join(diverged))}.</p>" if diverged else "",
            f"<h2>Recipe</h2><pre>{escape(config_toml)}</pre></html>",
        ]
    )
