"""`aurep validate`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import click

from aurep.cli.output import limits_option, progress_line, write_output
from aurep.cli.runs import RunPath
from aurep.errors import AurepError
from aurep.exporters.targets import TARGETS
from aurep.zoo import PREFIX, resolve

if TYPE_CHECKING:
    from aurep.validators.report import Report


@click.command("validate")
@click.argument("path", metavar="BUNDLE|MODEL.ONNX|zoo:NAME")
@click.option("--run", type=RunPath(path_type=Path), help="The run it was exported from: compare with its checkpoint.")
@click.option("--data", help="Measure the test accuracy on this data set, named as for `aurep train`.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data set lies.")
@click.option("--budget", help="ReLU elements allowed: 12900, 12.9k, 10%.  [default: what the file claims]")
@click.option(
    "--max-comparisons",
    metavar="N",
    help="Comparisons allowed per image, by ReLUs, max-pooling and all else together: 20k, or 10% of those that the "
    "network would make if all its activations were ReLUs.",
)
@click.option(
    "--max-sites", type=click.IntRange(min=0), metavar="K", help="Places allowed to compare.  [default: the claim]"
)
@click.option("--max-accuracy-drop", type=float, metavar="PTS", help="Points allowed below the teacher's accuracy.")
@click.option(
    "--min-accuracy", type=click.FloatRange(0, 100), metavar="PCT", help="Test accuracy demanded, in percent."
)
@click.option(
    "--accuracy-by",
    type=click.Choice(["estimate", "bound"]),
    default="estimate",
    show_default=True,
    help="Hold those two against the measured figure, or the worse end of its 95 % interval.",
)
@click.option("--provider", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to run the model.")
@click.option(
    "--fixed-point", metavar="RING:FRACTION", help="Simulate fixed point, e.g. 64:16.  [default: the target's]"
)
@click.option(
    "--target",
    type=click.Choice(list(TARGETS)),
    help="Hold the file against this target's rules, whoever wrote it.  [default: what it claims]",
)
@click.option("--json", "json_file", metavar="FILE", help="Write the report as JSON; - for standard output.")
@click.option("--junit", "junit_file", metavar="FILE", help="Write the report as JUnit XML; - for standard output.")
@click.option("--html", "html_file", metavar="FILE", help="Write the report as a page that needs no network.")
@click.option("--github", is_flag=True, help="Print GitHub annotations.")
@limits_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    path: str,
    json_file: str | None,
    junit_file: str | None,
    html_file: str | None,
    github: bool,
    **options: Any,
) -> None:
    """Recount the ReLUs of an exported model from its graph, and measure again what it claims.

    zoo:NAME is exported for that, and compared with its weights.
    Exits with 0 if every check passed, 1 if one failed, 2 on wrong usage or unreadable input.
    """
    if [json_file, junit_file, html_file].count("-") > 1:
        raise click.UsageError("only one report can go to standard output; give the others file names.")
    from rich.console import Console

    from aurep.validators import render
    from aurep.validators.entry import validate

    try:
        with _exported(path, options) as file, progress_line() as progress:
            report = validate(file, progress=progress, **options)
        if path.startswith(PREFIX):
            report = replace(report, file=path)  # what was exported for it is gone
    except AurepError as error:
        if github:
            click.echo(render.refusal(path, str(error)), nl=False)
        raise
    outputs = [(json_file, report.to_json), (junit_file, lambda: render.to_junit(report))]
    outputs.append((html_file, lambda: _page(report)))
    # Standard output belongs to the machine where it was asked for.
    with _no_commands() if github else nullcontext():
        render.to_console(report, Console(stderr=any(name == "-" for name, _ in outputs), highlight=False))
    for name, text in outputs:
        if name is not None:
            write_output(name, text())
    if github:
        click.echo(render.to_github(report), nl=False)
    ctx.exit(0 if report.passed else 1)


@contextmanager
def _exported(path: str, options: dict[str, Any]) -> Iterator[Path]:
    """The file or bundle to look at. For zoo:NAME, `options` get its run, and its data set where a folder is named."""
    if not path.startswith(PREFIX):
        yield Path(path)
        return
    from aurep.sharing import bundle_of
    from aurep.training.reading import read_config

    entry = resolve(path)
    options["run"] = options["run"] or entry
    if options["data_dir"] is not None:  # asked for, and so not to be passed over where it is missing
        options["data"] = options["data"] or read_config(entry).data.name
    with bundle_of(path, options["data_dir"]) as bundle:
        yield bundle


@contextmanager
def _no_commands() -> Iterator[None]:
    """GitHub takes no line in between for a command, such as a name in the file that wraps at the wrong place."""
    token = token_hex(16)
    click.echo(f"::stop-commands::{token}")
    yield
    click.echo(f"::{token}::")


def _page(report: Report) -> str:
    from aurep.validators.page import to_html  # its plots' way of drawing loads torch

    return to_html(report)
