"""Where a command writes what a machine will read: a file, or standard output for `-`."""

from __future__ import annotations

import click


def write_output(name: str, text: str) -> None:
    from aurep.files import write_text

    if name == "-":
        click.echo(text, nl=False)
    else:
        write_text(name, text)
