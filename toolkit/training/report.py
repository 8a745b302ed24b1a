"""`report.html`, a page that opens offline: accuracy and kept ReLUs over epochs, elements per site, configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from aurep.budget import ReluSite
from aurep.errors import AurepError
from aurep.results import RunResult
from aurep.training.metrics import EpochRow
from aurep.training.moves import cut_warning
from aurep.training.plots import Drawn, draw_epochs, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;margin:1rem 0}td{white-space:nowrap}
th,td{padding:.25rem .75rem;border-bottom:1px solid #d8dee4}
th{text-align:left}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
pre{background:#f6f8fa;padding:1rem;overflow:auto}svg{width:100%;height:auto}
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
            _over_epochs(rows, "train_accuracy", "val_accuracy"),
            "<h2>ReLU elements kept</h2>",
            _over_epochs(rows, "relu_count"),
            _search(result, rows),
            "<h2>Sites</h2>",
            _site_table(result.sites),
            f"<h2>Configuration</h2><pre>{escape(config_toml)}</pre></html>",
        ]
    )


def _search(result: RunResult, rows: Sequence[EpochRow]) -> str:
    """How far the search came by itself."""
    own = [row for row in rows if row["phase"] == "search"]
    if not own or "kept_before_projection" not in own[-1]:
        return "<p>No search.</p>"
    kept = own[-1]["kept_before_projection"]
    text = f"The search by itself ended with {kept:,} elements kept, before the projection to {result.relu_budget:,}; "
    text += f"{sum(row.get('recovered', 0) for row in own):,} came back after having been replaced."
    warning = cut_warning(kept, result.relu_budget, result.relu_total)
    return f"<p>{text}</p>" + (f"<p>Warning: {escape(warning)}</p>" if warning else "")


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


def plot(draw: Callable[[Axes], None], height: float = 3.0) -> str:
    """The plot as a part of a page; where matplotlib is missing, a sentence that says what to install."""
    try:
        drawn = svg(draw, height)
    except AurepError as error:
        return f"<p>{escape(str(error))}</p>"
    return drawn[drawn.index("<svg") :]


def _over_epochs(rows: Sequence[EpochRow], *keys: Drawn) -> str:
    if all(row[key] is None for row in rows for key in keys):
        return "<p>No epochs were trained.</p>"
    return plot(lambda axes: draw_epochs(axes, rows, keys))
