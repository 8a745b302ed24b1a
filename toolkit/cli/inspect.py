"""`aurep inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurep.cli.output import limits_option, progress_line, write_output
from aurep.errors import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from aurep.validators.inspection import Inspection


@click.command("inspect")
@click.argument("path", required=False, type=click.Path(path_type=Path), metavar="MODEL.ONNX|BUNDLE|RUN")
@click.option(
    "--json",
    "json_file",
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="Write JSON; without a file, or for -, to standard output in place of the table.",
)
@limits_option
def command(path: Path | None, json_file: str | None, limits: str | None) -> None:
    """Show each site's elements, kept ReLUs and degree, the totals, and what private inference pays for."""
    if path is None and json_file not in (None, "-"):  # `--json MODEL.ONNX`: it is not the file to write
        path, json_file = Path(str(json_file)), "-"
    if path is None:
        raise click.UsageError("give a MODEL.ONNX, BUNDLE or RUN to look at.")
    import json

    from rich.console import Console

    from aurep.validators.entry import inspect

    with progress_line() as progress:
        found = inspect(path, limits=limits, progress=progress)
    if json_file is not None:
        write_output(json_file, json.dumps(found.to_dict(), indent=2) + "\n")
    if json_file != "-":
        _print(found, Console(highlight=False))


def _print(found: Inspection, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("site", box=None, pad_edge=False)
    protocols = [f"{entry['framework']} {entry['protocol']} bytes" for entry in found.estimates]
    for column in ("elements", "kept", "degree", *protocols):
        table.add_column(column, justify="right")
    named = {row["name"] for row in found.sites}
    for row in found.sites:
        degree = "" if row["degree"] is None else str(row["degree"])
        costs = (f"{entry['sites'].get(row['name'], 0):,}" for entry in found.estimates)
        table.add_row(Text(one_line(row["name"])), f"{row['elements']:,}", f"{row['kept']:,}", degree, *costs)
    if found.estimates:
        others = (sum(n for name, n in e["sites"].items() if name not in named) for e in found.estimates)
        table.add_row("everything else", "", "", "", *(f"{cost:,}" for cost in others))
    console.print(table)
    console.print(Text("\n".join(map(one_line, _totals(found)))), soft_wrap=True)
    if found.outlook:
        console.print(_outlook(found.outlook))


def _outlook(rows: Sequence[dict[str, Any]]) -> Table:
    """What a private inference would send if so many activation elements stayed ReLU."""
    from rich.table import Table

    table = Table("if of the activations stay", box=None, pad_edge=False, title_justify="left")
    table.add_column("at sites", justify="right")
    table.add_column("ReLUs", justify="right")
    for entry in rows[0]["estimates"]:
        table.add_column(f"{entry['framework']} {entry['protocol']}", justify="right")
    for row in rows:
        cells = [
            f"{entry['bytes'] / 1e6:,.2f} MB" + ("" if entry["rounds"] is None else f", {entry['rounds']:,} rounds")
            for entry in row["estimates"]
        ]
        table.add_row(f"{row['share']:.0%}", str(row["relu_sites"]), f"{row['relu_count']:,}", *cells)
    return table


def _totals(found: Inspection) -> list[str]:
    lines = []
    if found.relu_count is not None and found.relu_total is not None:
        share = f" ({found.relu_count / found.relu_total:.1%})" if found.relu_total else ""
        lines.append(f"ReLU count {found.relu_count:,} of {found.relu_total:,} elements per image{share}")
    if found.relu_sites is not None:
        lines.append(f"sites that hold ReLUs: {found.relu_sites}")
    if found.relu_budget is not None:
        lines.append(f"ReLU budget {found.relu_budget:,}")
    if found.problem is not None:
        lines.append(f"not countable: {found.problem}")
    if found.comparisons is not None:
        listed = ", ".join(f"{op} {n:,}" for op, n in found.comparisons.items()) or "none"
        lines.append(f"comparisons per image: {listed}")
    lines.append(f"products of computed values per image: {found.multiplications:,}")
    if found.depth is not None:
        lines.append(f"depth: {found.depth} products (linear layers included), {found.compared_depth} comparisons")
    for entry in found.estimates:
        rounds = "" if entry["rounds"] is None else f", {entry['rounds']:,} rounds"
        opening = f"{entry['weight_opening']:,} of them to open secret weights"
        lines.append(
            f"estimate for {entry['framework']} {entry['protocol']}: {entry['bytes']:,} bytes ({opening}){rounds}"
        )
    return lines
