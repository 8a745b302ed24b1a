"""How a command takes a run: a folder, or `zoo:NAME`."""

from __future__ import annotations

import os
from typing import Any

import click


class RunPath(click.Path):
    """A path, with `zoo:NAME` standing for a folder of the zoo."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value.startswith("zoo:"):
            from aurep.zoo import resolve

            value = os.fspath(resolve(value))
        return super().convert(value, param, ctx)
