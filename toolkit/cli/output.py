"""Where commands write: results into files or, for `-`, on standard output; what is being done on standard error."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


def write_output(name: str, text: str) -> None:
    from aurep.files import write_text

    if name == "-":
        click.echo(text, nl=False)
    else:
        write_text(name, text)


limits_option = click.option(
    "--limits",
    metavar="NAME=SIZE,...",
    help="What the file may cost whoever looks at it: memory, cpu, wall.  [default: memory=8GiB,wall=1800]",
)


@contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """On a terminal, a line on standard error that says what is being done, with a bar where it counts images."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
    console = Console(stderr=True)
    # Off a terminal it would still end with an empty line.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def show(stage: str) -> None:
            counted = re.search(r": ([\d,]+) of ([\d,]+) images$", stage)
            done, of = (int(number.replace(",", "")) for number in counted.groups()) if counted else (0, None)
            bar.update(task, description=escape(stage.removeprefix("while ")), completed=done, total=of)

        yield show
