"""How a command takes a run: a folder, or `zoo:NAME`."""

from __future__ import annotations

import os
from typing import Any

import click

from aurep.zoo import PREFIX, resolve


class RunPath(click.Path):
    """A path, with `zoo:NAME` standing for a folder of the zoo."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(from_zoo(value), param, ctx)


def from_zoo(value: Any) -> Any:
    """`value`, or where it is `zoo:NAME`, the path of that folder."""
    return os.fspath(resolve(value)) if isinstance(value, str) and value.startswith(PREFIX) else value


def source_from_zoo(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """For an option that takes a path or other text: its callback."""
    found: str | None = from_zoo(value)
    return found
