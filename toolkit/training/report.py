"""`report.html`, a page that opens offline: accuracy and kept ReLUs over epochs, elements per site, configuration."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Literal

from aurep.budget import ReluSite
from aurep.results import RunResult
from aurep.training.metrics import EpochRow

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 760, 260, 48, 28
_Drawn = Literal["train_accuracy", "val_accuracy", "relu_count"]
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;margin:1rem 0}th,td{padding:.25rem .75rem;border-bottom:1px solid #d8dee4}
th{text-align:left}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
pre{background:#f6f8fa;padding:1rem;overflow:auto}svg{width:100%;height:auto}
text{font:11px system-ui,sans-serif;fill:#57606a}
.bar{background:#2f6fde;height:.7rem;min-width:1px}
"""


def html_report(result: RunResult, rows: Sequence[EpochRow], config_toml: str) -> str:
    """The page for a finished run; `rows` as in its metrics.csv."""
    training = result.training
    share = 100 * result.relu_count / result.relu_total if result.relu_total else 0.0
    title = f"{training.model} on {training.data}: {result.relu_count:,} of {result.relu_total:,} ReLUs"
    scores = [
        ("teacher (all ReLU)", result.relu_total, result.teacher_val_accuracy, result.teacher_test_accuracy),
        ("hybrid", result.relu_count, result.val_accuracy, result.test_accuracy),
    ]
    for narrow in result.narrower:
        name = f"hybrid, width × {narrow.width_multiplier:g}"
        scores.append((name, narrow.relu_count, narrow.val_accuracy, narrow.test_accuracy))
    return "\n".join(
        [
            f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f"<h1>{escape(title)}</h1>",
            f"<p>Budget {result.relu_budget:,} elements; {share:.2f} % kept by {escape(str(training.method))}, "
            f"seed {training.seed}, {result.seconds:,} s, {result.finished}.</p>",
            table(("", "ReLUs", "val %", "test %"), scores),
            "<h2>Accuracy over epochs (%)</h2>",
            _chart(rows, ("train_accuracy", "val_accuracy")),
            "<h2>ReLU elements kept</h2>",
            _chart(rows, ("relu_count",)),
            "<h2>Sites</h2>",
            _site_table(result.sites),
            f"<h2>Configuration</h2><pre>{escape(config_toml)}</pre></html>",
        ]
    )


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    text = "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.2f}"
    return f"<td class='n'>{text}</td>"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = "".join(f"<th{' class=n' if i else ''}>{escape(name)}</th>" for i, name in enumerate(head))
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _site_table(sites: Sequence[ReluSite]) -> str:
    rows = ""
    for site in sites:
        share = 100 * site.kept / site.elements
        cells = (site.name, "×".join(map(str, site.shape)), site.elements, site.kept, share)
        bar = f"<td style='width:10rem'><div class='bar' style='width:{share:.2f}%'></div></td>"
        rows += f"<tr>{''.join(map(_cell, cells))}{bar}</tr>"
    head = "<th>site</th><th>shape</th><th class=n>elements</th><th class=n>kept</th><th class=n>%</th><th></th>"
    return f"<table><tr>{head}</tr>{rows}</table>"


def _chart(rows: Sequence[EpochRow], keys: Sequence[_Drawn]) -> str:
    """Lines of `keys` over the run's epochs, phases side by side, as SVG."""
    values = [value for row in rows for key in keys if (value := row[key]) is not None]
    if not values:
        return "<p>No epochs were trained.</p>"
    low, high = min(values), max(values)
    low, high = (low - 1, high + 1) if low == high else (low, high)

    def x(index: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 8) * (index + 0.5) / len(rows)

    def y(value: float) -> float:
        return 8 + (_HEIGHT - _BOTTOM - 8) * (high - value) / (high - low)

    parts = [f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='{' and '.join(keys)} over epochs'>"]
    for tick in (low, (low + high) / 2, high):
        parts.append(f"<line x1='{_LEFT}' x2='{_WIDTH}' y1='{y(tick):.1f}' y2='{y(tick):.1f}' stroke='#d8dee4'/>")
        parts.append(f"<text x='{_LEFT - 6}' y='{y(tick) + 4:.1f}' text-anchor='end'>{tick:,.4g}</text>")
    for index, row in enumerate(rows):
        if index == 0 or row["phase"] != rows[index - 1]["phase"]:
            edge = x(index - 0.5)
            parts.append(f"<line x1='{edge:.1f}' x2='{edge:.1f}' y1='8' y2='{_HEIGHT - _BOTTOM}' stroke='#afb8c1'/>")
            parts.append(f"<text x='{edge + 4:.1f}' y='{_HEIGHT - 8}'>{escape(row['phase'])}</text>")
    for key, colour in zip(keys, ("#8c959f", "#2f6fde"), strict=False):
        points = [(x(i), y(value)) for i, row in enumerate(rows) if (value := row[key]) is not None]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        parts += [f"<circle cx='{px:.1f}' cy='{py:.1f}' r='2.5' fill='{colour}'/>" for px, py in points]
        if len(keys) > 1 and points:
            offset = 110 * keys.index(key)
            parts.append(f"<text x='{_LEFT + 8 + offset}' y='20' style='fill:{colour}'>{key.replace('_', ' ')}</text>")
    return "".join([*parts, "</svg>"])
