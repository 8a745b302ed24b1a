"""`aurep recipes`."""

from __future__ import annotations

import click


@click.command("recipes")
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the shipped recipes, or print one whole."""
    from aurep.training.config import read_recipe, recipe_names

    if name is not None:
        click.echo(read_recipe(name), nl=False)
        return
    names = recipe_names()
    for listed in names:
        header = read_recipe(listed).splitlines()[0].removeprefix("#").strip()
        click.echo(f"{listed:<{max(map(len, names))}} {header}")
