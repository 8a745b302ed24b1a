"""`aurep push` and `aurep pull`."""

from __future__ import annotations

from pathlib import Path

import click

_no_validate = click.option("--no-validate", is_flag=True, help="Do not validate the bundle.")


@click.command("push")
@click.argument("source", metavar="BUNDLE|zoo:NAME")
@click.argument("to", metavar="hf:OWNER/NAME")
@click.option("--license", "licence", metavar="ID", help="Of the network, as the hub names it: apache-2.0.")
@click.option("--private", is_flag=True, help="Where the repository is made anew: for its owner alone.")
@_no_validate
def push_command(source: str, to: str, licence: str | None, private: bool, no_validate: bool) -> None:
    """Upload a bundle to the Hugging Face hub, with a model card (extra hub). A bundle that fails validation is not.

    The hub's own client finds the token: HF_TOKEN, or `hf auth login`.
    """
    from aurep.sharing import bundle_of, push

    with bundle_of(source) as bundle:
        if not no_validate:
            _validate(bundle)
        click.echo(push(bundle, to, licence=licence, private=private))


@click.command("pull")
@click.argument("source", metavar="hf:OWNER/NAME[@REVISION]")
@click.argument("destination", type=click.Path(path_type=Path), metavar="DEST")
@_no_validate
def pull_command(source: str, destination: Path, no_validate: bool) -> None:
    """Download a bundle from the Hugging Face hub into the new folder DEST, check its digests, and validate it.

    With HF_HUB_OFFLINE=1 it comes from the hub's cache.
    """
    from aurep.sharing import pull

    click.echo(f"wrote {pull(source, destination)}")
    if not no_validate:
        _validate(destination)


def _validate(bundle: Path) -> None:
    """Exits with 1 where a check fails."""
    from rich.console import Console

    from aurep.validators import render, validate

    report = validate(bundle)
    render.to_console(report, Console(highlight=False))
    if not report.passed:
        raise click.exceptions.Exit(1)
