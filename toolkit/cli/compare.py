"""`aurep compare`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from aurep.results import ComparisonRow
    from aurep.training.cluster import Cluster


@click.command("compare")
@click.argument("recipe")
@click.option("--methods", default="autorep", show_default=True, help="Comma-separated search methods.")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    nargs=2,
    metavar="NAME 'KEY=VALUE ...'",
    help="A name for --methods that stands for these keys of the recipe.",
)
@click.option("--budgets", default="20%,5%,2%", show_default=True, help="Comma-separated budgets.")
@click.option("--max-sites", "max_sites", metavar="K,...", help="Every method also with ReLUs at K sites at most.")
@click.option("--seeds", default="0,1,2", show_default=True, help="Comma-separated seeds.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data set lies.")
@click.option("--out", type=click.Path(path_type=Path), help="Shared folder of runs.  [default: runs/compare-RECIPE]")
@click.option(
    "--launcher",
    type=click.Choice(["local", "slurm"]),
    default="local",
    show_default=True,
    help="Run here, or as a Slurm job array (extra slurm).",
)
@click.option(
    "--slurm",
    multiple=True,
    metavar="KEY=VALUE",
    help="What a job may use, as in docs/clusters.md, or a TOML file of that.",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any key of the recipe.")
def command(
    recipe: str,
    methods: str,
    variants: tuple[tuple[str, str], ...],
    budgets: str,
    max_sites: str | None,
    seeds: str,
    data_dir: Path | None,
    out: Path | None,
    launcher: str,
    slurm: tuple[str, ...],
    overrides: tuple[str, ...],
) -> None:
    """Run RECIPE for every method, budget and seed, then write a table, and accuracy over ReLUs, bytes and rounds.

    Finished runs are skipped and stopped ones go on. Start it several times, on several machines that share the folder,
    and they divide the runs among themselves. With --launcher slurm every run is a job, requeued when it is preempted.
    """
    from rich.console import Console

    from aurep.cli.train import read
    from aurep.costs import RunCosts
    from aurep.errors import AurepError
    from aurep.training.compare import compare, run_here
    from aurep.training.heap import keep_freed_memory

    if slurm and launcher != "slurm":
        raise click.UsageError("--slurm says what jobs may use; give --launcher slurm with it.")
    numbers = _list(seeds)
    if not all(number.isdigit() for number in numbers):
        raise AurepError(f"--seeds {seeds!r} is not a comma-separated list of whole numbers such as 0,1,2.")
    extra = [f"data.dir='{data_dir}'"] if data_dir is not None else []
    folder = out or Path("runs") / f"compare-{Path(recipe).stem}"
    console = Console()
    config = read(recipe, [*extra, *overrides])
    named = {name: shlex.split(keys) for name, keys in variants}
    keep_freed_memory()
    limited = _at_few_sites(_list(methods), _list(max_sites or ""), named)
    rows = compare(
        config,
        folder,
        [*_list(methods), *limited],
        _list(budgets),
        [int(number) for number in numbers],
        console,
        variants=named | limited,
        costs=RunCosts(),
        launcher=_cluster(slurm) if launcher == "slurm" else run_here,
    )
    console.print(_table(rows))
    console.print(f"{folder / 'comparison.html'}", highlight=False)


def _at_few_sites(methods: list[str], counts: list[str], variants: dict[str, list[str]]) -> dict[str, list[str]]:
    """A variant for each method (or variant) and number of sites."""
    return {
        f"{method}, {count} site{'' if count == '1' else 's'}": [
            *variants.get(method, [f"search.method='{method}'"]),
            f"search.max_sites={count}",
        ]
        for method in methods
        for count in counts
    }


def _cluster(options: tuple[str, ...]) -> Cluster:
    from aurep.training.cluster import Cluster
    from aurep.training.cluster_options import read_options

    return Cluster(read_options(options))


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _table(rows: list[ComparisonRow]) -> Any:
    from rich.table import Column, Table

    heads = ("ReLUs", "sites", "degree", "teacher test %", "test %", "spread", "seconds")
    table = Table("method", "budget", *(Column(head, justify="right") for head in heads))
    for row in rows:
        table.add_row(
            row.method,
            row.budget,
            f"{row.relu_count:,}",
            f"{row.relu_sites:g}",
            str(row.degree),
            f"{row.teacher_mean:.2f}",
            f"{row.mean:.2f}",
            f"{row.spread:.2f}",
            f"{row.seconds:.0f}",
        )
    return table
