"""The page that a person looks at: one file, offline, light or dark as the reader has it.

What a plot shows stands in the report's JSON as well: `detail` of the checks, `maps` and `estimates`.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aurep.frameworks import FRAMEWORKS
from aurep.training.plots import COLOURS
from aurep.training.report import plot
from aurep.validators.render import figure, verdict
from aurep.validators.report import Check, Figure, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SITE, _BASE = 0.24, 0.9  # inches a site takes in a plot, and those around them
_MAPS_ACROSS = 8
_MOST = 200  # sites that a plot shows; the table has them all


def to_html(report: Report) -> str:
    details = {check.name: check.detail for check in report.checks}
    sections = [
        ("Elements per site", _bars(report)),
        ("Kept elements, share of the channels at each position", _maps(report.maps)),
        ("Input ranges against the certificate", _ranges(details.get("range", {}).get("sites", [])[:_MOST])),
        ("Errors of the logits, over the largest one", _errors(details.get("parity", {}).get("histogram", {}))),
        ("Accuracy with its 95 % interval", _accuracy(report.checks)),
        ("Comparisons", _table(("operator", "elements per image"), sorted(report.comparisons.items()))),
        ("Of these by max-pooling, which the ReLU budget does not bound", _poolings(report)),
        ("Bytes per image, by site", _bytes(report)),
    ]
    parts = "".join(f"<h2>{title}</h2>\n{body}\n" for title, body in sections if body)
    facts = (
        f"ReLU count {figure(report.relu_count) or 'unknown'} of {figure(report.relu_total) or 'unknown'} elements, "
        f"budget {figure(report.relu_budget) or 'none'}; target {report.target or 'none'}; "
        f"ran on {report.provider or 'nothing'}; aurep {report.version}"
    )
    return _PAGE.format(
        title=_cell(report.file),
        verdict=_cell(verdict(report)),
        state="pass" if report.passed else "fail",
        facts=_cell(facts),
        checks="".join(map(_check_row, report.checks)),
        notes="".join(f"<p>{_cell(note)}</p>\n" for note in report.notes),
        parts=parts,
        sites=_table(
            ("site", "elements", "kept", "degree"),
            [[row[key] for key in ("name", "elements", "kept", "degree")] for row in report.sites],
        ),
    )


def _check_row(check: Check) -> str:
    cells = "".join(f"<td>{_cell(value)}</td>" for value in (check.name, check.measured, check.allowed, check.hint))
    state, mark = ("pass", "✓") if check.passed else ("fail", "✗")
    return f'<tr class="{state}"><td>{mark}</td>{cells}</tr>\n'


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    top = "".join(f"<th>{_cell(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>\n" for row in rows)
    return f"<table><tr>{top}</tr>\n{body}</table>"


def _poolings(report: Report) -> str:
    return _table(("node", "elements per image"), list(report.poolings.items()))


def _bars(report: Report) -> str:
    rows = report.sites[:_MOST]

    def draw(axes: Axes) -> None:
        axes.barh(range(len(rows)), [row["elements"] for row in rows], color=COLOURS[5], alpha=0.45, label="elements")
        axes.barh(range(len(rows)), [row["kept"] for row in rows], color=COLOURS[1], label="kept as ReLU")
        _site_axis(axes, [row["name"] for row in rows])
        axes.xaxis.set_major_formatter("{x:,.0f}")

    return _drawn(draw, rows)


def _ranges(rows: Sequence[dict[str, Any]]) -> str:
    def draw(axes: Axes) -> None:
        for key, height, colour, alpha in (("certified", 0.8, COLOURS[5], 0.35), ("measured", 0.5, COLOURS[0], 0.6)):
            starts, widths = zip(*((row[key][0], row[key][1] - row[key][0]) for row in rows), strict=True)
            axes.barh(range(len(rows)), widths, height, starts, color=colour, alpha=alpha, label=key)
        for at, row in enumerate(rows):
            beyond = row["beyond"] if isinstance(row["beyond"], float) else 1.0
            colour = COLOURS[1] if beyond > 0 else COLOURS[2]
            label = {1: "seen now, outside in a channel", 0: "seen now"}[int(beyond > 0)]
            axes.plot(row["seen"], [at, at], color=colour, marker="|", linewidth=1.5, label=label)
        axes.use_sticky_edges = False
        axes.autoscale_view()
        _site_axis(axes, [row["name"] for row in rows])

    return _drawn(draw, rows)


def _bytes(report: Report) -> str:
    """Of the target's own protocols; of all that there are figures for where the target has none."""
    own = [row for row in report.estimates if row["framework"] == report.target]
    rows = own or list(report.estimates)
    if not rows or (own and not FRAMEWORKS[str(report.target)].protocols):
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row["sites"]))[:_MOST]

    def draw(axes: Axes) -> None:
        height = 0.8 / len(rows)
        for at, row in enumerate(rows):
            places = [place + (at - (len(rows) - 1) / 2) * height for place in range(len(names))]
            label = f"{row['framework']}, {row['protocol']}: {row['bytes']:,} bytes"
            values = [row["sites"].get(name, 0) for name in names]
            axes.barh(places, values, height, color=COLOURS[at % len(COLOURS)], label=label)
        _site_axis(axes, names)
        axes.xaxis.set_major_formatter("{x:,.0f}")

    return _drawn(draw, names)


def _errors(histogram: dict[str, Any]) -> str:
    counts, edges = histogram.get("counts", []), histogram.get("edges", [])

    def draw(axes: Axes) -> None:
        axes.bar(edges[:-1], counts, width=edges[1] - edges[0], align="edge", color=COLOURS[0])
        axes.axvline(-4, color=COLOURS[1], linestyle="--", linewidth=1)
        axes.annotate("allowed", (-4, 1), (4, -10), ("data", "axes fraction"), textcoords="offset points")
        axes.set_xticks(range(-10, 1, 2), [f"1e{power}" for power in range(-10, 1, 2)])
        axes.set_ylabel("logits")

    return plot(draw, 2.2) if counts else ""


def _accuracy(checks: Sequence[Check]) -> str:
    check = next((check for check in checks if check.name == "accuracy" and "interval" in check.detail), None)
    if check is None or not isinstance(check.measured, float):
        return ""
    value, (low, high) = check.measured, check.detail["interval"]

    def draw(axes: Axes) -> None:
        axes.errorbar([value], [0], xerr=[[value - low], [high - value]], color=COLOURS[0], marker="o", capsize=4)
        lines = ((check.detail.get("reference"), "reference", 2), (check.allowed, "least allowed", 1))
        for at, name, colour in lines:
            if isinstance(at, float):
                axes.axvline(at, color=COLOURS[colour], linestyle="--", label=f"{name} {at:.2f} %")
        axes.set_yticks([])
        axes.set_xlabel("test accuracy, %")
        axes.margins(x=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)

    return plot(draw, 1.5)


def _maps(maps: dict[str, Any]) -> str:
    """Tiles of one image each, dark where no channel is kept."""
    if not maps:
        return ""
    maps = dict(list(maps.items())[:_MOST])
    down = -(-len(maps) // _MAPS_ACROSS)

    def draw(axes: Axes) -> None:
        for at, (name, values) in enumerate(maps.items()):
            left, top = 1.15 * (at % _MAPS_ACROSS), -1.3 * (at // _MAPS_ACROSS)
            axes.imshow(values, extent=(left, left + 1, top - 1, top), vmin=0, vmax=1, cmap="viridis", aspect="equal")
            axes.text(left, top + 0.05, _label(name, 20), fontsize=6)
        axes.set_xlim(0, 1.15 * min(len(maps), _MAPS_ACROSS))
        axes.set_ylim(-1.3 * down + 0.3, 0.25)
        axes.axis("off")

    return plot(draw, 1.2 * down + 0.2)


def _label(name: str, most: int = 40) -> str:
    """A name out of a file as matplotlib takes it: its fonts lack most letters, and between dollars it reads TeX."""
    plain = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in name)
    return (plain if len(plain) <= most else f"...{plain[3 - most :]}").replace("$", r"\$")


def _drawn(draw: Any, rows: Sequence[Any]) -> str:
    return plot(draw, _BASE + _SITE * len(rows)) if rows else ""


def _site_axis(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), list(map(_label, names)))
    axes.invert_yaxis()
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(handles.values(), handles.keys(), loc="lower left", bbox_to_anchor=(0, 1), ncols=len(handles))


def _cell(value: Figure) -> str:
    return html.escape(figure(value))


# Plots are drawn for a white page; in the dark their text, lines and grounds are given the page's.
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>aurep validate: {title}</title><style>
:root {{ --ground: #fff; --text: #1b1f24; --line: #d8dee4; --good: #137333; --bad: #c5221f; --soft: #fdeceb }}
@media (prefers-color-scheme: dark) {{
:root {{ --ground: #0d1117; --text: #d5dbe1; --line: #30363d; --good: #56d364; --bad: #ff7b72; --soft: #3c1618 }}
svg text {{ fill: #aab4be !important }} svg [style*="stroke: #d8dee4"] {{ stroke: #30363d !important }} }}
svg [style*="fill: #ffffff"] {{ fill: none !important }} svg {{ width: 100%; height: auto }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--text); background: var(--ground) }}
table {{ border-collapse: collapse; width: 100%; margin: 1rem 0 }} h2 {{ font-size: 1.1rem; margin-top: 2rem }}
th, td {{ text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top }}
td:last-child {{ overflow-wrap: anywhere }} td:nth-child(3), td:nth-child(4) {{ min-width: 7rem }}
strong.pass, .pass td:first-child {{ color: var(--good) }} strong.fail, .fail td:first-child {{ color: var(--bad) }}
tr.fail {{ background: var(--soft) }} td:nth-child(-n+2) {{ white-space: nowrap }}
</style></head><body>
<h1>aurep validate</h1>
<p><strong class="{state}">{verdict}</strong></p>
<p>{facts}</p>
<table><tr><th></th><th>check</th><th>measured</th><th>allowed</th><th>hint</th></tr>
{checks}</table>
{notes}{parts}<h2>Sites</h2>
{sites}
</body></html>
"""
