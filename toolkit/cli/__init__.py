"""The command line. Commands import heavy modules inside their functions, so that `aurep --help` answers at once."""

from __future__ import annotations

from typing import Any

import click

from aurep.cli import compare, demo, doctor, export, handoff, inspect, recipes, sharing, train, validate, zoo
from aurep.errors import AurepError, Diverged, one_line


class _Group(click.Group):
    """Turns an AurepError into one sentence and exit code 2. `--debug` may stand anywhere and shows the traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = {"debug": "--debug" in args}
        return super().parse_args(ctx, [arg for arg in args if arg != "--debug"])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (AurepError, OSError, MemoryError) as error:
            if ctx.obj["debug"] or isinstance(error, BrokenPipeError):
                raise
            kind = _Failed if isinstance(error, Diverged) else _Sentence
            raise kind(str(error) or type(error).__name__) from None


class _Sentence(click.ClickException):
    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"aurep: {one_line(self.message)}", err=True, file=file)


class _Failed(_Sentence):
    exit_code = 1


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="aurep", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Make CNNs cheap under private inference: choose which ReLUs stay, fit polynomials, retrain, export, validate."""


for _module in (train, export, validate, inspect, handoff, compare, recipes, zoo, doctor, demo):
    main.add_command(_module.command)
main.add_command(sharing.push_command)
main.add_command(sharing.pull_command)
