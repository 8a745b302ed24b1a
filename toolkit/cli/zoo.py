"""`aurep zoo`: the trained networks that a clone brings along."""

from __future__ import annotations

from pathlib import Path

import click

from aurep.errors import AurepError
from aurep.zoo import CARD, costs_of, entries


@click.group("zoo", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """List the trained networks of this clone, with what they reach and what private inference of them costs.

    Each is named zoo:NAME where a command takes a run; `aurep validate zoo:NAME --data-dir DIR` measures it again.
    """
    if ctx.invoked_subcommand is not None:
        return
    from rich.console import Console
    from rich.table import Table

    from aurep.results import read_result

    found = entries()
    if not found:
        click.echo("no zoo is here: it comes with a clone of the repository, not with a wheel.")
        return
    costs = {name: costs_of(folder) for name, folder in found.items()}
    protocols = list(dict.fromkeys(protocol for counted in costs.values() for protocol in counted))
    table = Table(box=None, pad_edge=False)
    table.add_column("network", no_wrap=True)
    for title in ("ReLUs", "test %", "teacher %", *protocols):
        table.add_column(title, justify="right", no_wrap=True)
    for name, folder in found.items():
        result = read_result(folder)
        kept = f"{result.relu_count:,} of {result.relu_total:,}"
        accuracies = (f"{result.test_accuracy:.2f}", f"{result.teacher_test_accuracy:.2f}")
        table.add_row(name, kept, *accuracies, *(costs[name].get(protocol, "") for protocol in protocols))
    console = Console(highlight=False, width=120)  # a narrower terminal breaks lines, and loses nothing
    console.print(table)
    console.print(f"What each is: zoo/NAME/{CARD}", markup=False)


@command.command("add")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("name")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data set lies.  [default: the run's]")
def add_command(run: Path, name: str, data_dir: Path | None) -> None:
    """Pack the finished run RUN as zoo/NAME of the current folder, measured again with its fp16 weights."""
    from aurep.costs import RunCosts
    from aurep.zoo.packing import add

    if Path(name).name != name or not name.strip("."):
        raise AurepError(f"{name!r} is no name for a zoo's entry, which is one folder; leave slashes out.")
    result = add(run, Path("zoo") / name, data_dir, RunCosts()(run))
    click.echo(
        f"wrote zoo/{name}: {result.relu_count:,} of {result.relu_total:,} ReLUs, {result.test_accuracy:.2f} % test"
    )
