"""`comparison.html`: accuracy over kept ReLUs, over bytes and over rounds, method by method. Opens offline.

A row is on the Pareto front of a cost if no other is at least as accurate for at most as much, and better in one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from html import escape

from aurep.results import ComparisonRow
from aurep.training.plots import draw_comparison, draw_cost
from aurep.training.report import STYLE, plot, table

CostOf = Callable[[ComparisonRow], float]


def comparison_page(
    rows: Sequence[ComparisonRow], seeds: Sequence[int], diverged: Sequence[str], config_toml: str
) -> str:
    """The page of a comparison; `diverged` names runs."""
    costs = _costs(rows)
    fronts = {name: front(rows, cost) for name, cost in costs.items()}
    lines = [
        (
            row.method,
            row.relu_count,
            row.relu_sites,
            100 * row.relu_count / row.relu_total,
            row.degree,
            row.teacher_mean,
            row.mean,
            f"± {row.spread:.2f}",
            round(row.seconds),
            *(value for cost in row.costs for value in (cost.megabytes, cost.rounds) if value is not None),
            ", ".join(name for name, best in fronts.items() if row in best),
        )
        for row in sorted(rows, key=lambda row: (row.relu_count, -row.mean))
    ]
    head: tuple[str, ...] = ("method", "ReLUs", "sites", "%", "degree", "teacher test %", "test %", "spread", "seconds")
    head += (*list(costs)[1:], "on the front of")
    return "\n".join(
        [
            f"<!doctype html><html lang='en'><meta charset='utf-8'><title>aurep compare</title><style>{STYLE}</style>",
            f"<h1>Test accuracy over kept ReLUs</h1><p>Mean and standard deviation over {len(seeds)} "
            f"seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))}); one teacher per seed "
            "for all methods.</p>",
            plot(lambda axes: draw_comparison(axes, rows), 4.5) if rows else "<p>No run ended with a network.</p>",
            *(_over(name, costs[name], rows, fronts[name]) for name in list(costs)[1:]),
            "<p>By the cost model of aurep inspect; megabytes without the opening of secret weights.</p>"
            if len(costs) > 1
            else "",
            table(head, lines),
            f"<p>Diverged, and not part of the above: {escape(', '.join(diverged))}.</p>" if diverged else "",
            f"<h2>Recipe</h2><pre>{escape(config_toml)}</pre></html>",
        ]
    )


def front(rows: Sequence[ComparisonRow], cost: CostOf) -> list[ComparisonRow]:
    """The rows that no other row dominates, cheapest first."""

    def dominated(row: ComparisonRow) -> bool:
        mine = (cost(row), -row.mean)
        others = ((cost(other), -other.mean) for other in rows)
        return any(other != mine and other[0] <= mine[0] and other[1] <= mine[1] for other in others)

    return sorted((row for row in rows if not dominated(row)), key=cost)


def _costs(rows: Sequence[ComparisonRow]) -> dict[str, CostOf]:
    """Name -> what a row costs: ReLUs, then megabytes and rounds of each protocol that all rows have."""
    found: dict[str, CostOf] = {"ReLUs": lambda row: row.relu_count}
    for number, cost in enumerate(rows[0].costs if rows else ()):
        found[f"{cost.protocol} MB"] = _megabytes(number)
        if cost.rounds is not None:
            found[f"{cost.protocol} rounds"] = _rounds(number)
    return found


def _megabytes(number: int) -> CostOf:
    return lambda row: row.costs[number].megabytes


def _rounds(number: int) -> CostOf:
    return lambda row: row.costs[number].rounds or 0.0


def _over(name: str, cost: CostOf, rows: Sequence[ComparisonRow], best: Sequence[ComparisonRow]) -> str:
    draw = partial(draw_cost, rows=rows, name=name, cost=cost, front=best)
    return f"<h2>Over {escape(name)} of an inference</h2>\n{plot(draw, 3.5)}"
