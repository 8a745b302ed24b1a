"""The page `configuration.md`: types, ranges and defaults from the configuration classes, and the comments there."""

from __future__ import annotations

import ast
import inspect
import io
import json
import textwrap
import tokenize
import types
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from aurep.search import POLICIES
from aurep.training.config import Config

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

INTRODUCTION = """# Configuration reference

A recipe is a TOML file of these sections; `--set section.key=value` and a dict given to `aurep.train` set the same
keys. Unknown keys and values out of range are refused before any work starts. A key left out has its default. The
`config.toml` of a run holds all of them as they were used.

This page is generated from the classes that read recipes.
"""
_NAMES: dict[Any, str] = {int: "integer", float: "number", str: "text", bool: "true or false", dict: "table"}
_RANGES = (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "configuration.md", content=reference()))
    return files


def reference() -> str:
    """The page as Markdown."""
    parts = [INTRODUCTION]
    for name, field in Config.model_fields.items():
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, BaseModel)
        parts += [f"## [{name}]\n", table(field.annotation)]
    parts.append("## [search.options]\n\nA table of its own for each `search.method`.\n")
    for method, policy in POLICIES.items():
        parts += [f"### {method}\n", table(policy.Options)]
    return "\n".join(parts)


def table(section: type[BaseModel]) -> str:
    """A row per key of `section`."""
    lines = ["| key | type | default | |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        values = _type(field.annotation, field.metadata)
        shown = "not set" if field.default is None else f"`{json.dumps(field.default)}`"
        lines.append(f"| `{name}` | {values} | {shown} | {description(section, name)} |")
    return "\n".join(lines) + "\n"


def description(section: type[BaseModel], key: str) -> str:
    """The comments beside `key` in `section` and the classes that it extends, the most general first."""
    found = [comments(base).get(key, "") for base in reversed(section.__mro__) if issubclass(base, BaseModel)]
    return "; ".join(text for text in found if text).replace("None:", "not set:").replace("|", "\\|")


@cache
def comments(section: type[BaseModel]) -> dict[str, str]:
    """Key -> the comment at the end of the statement that declares it."""
    if section is BaseModel:
        return {}
    source = textwrap.dedent(inspect.getsource(section))
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    beside = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    fields = (node for node in definition.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name))
    return {node.target.id: beside[node.end_lineno] for node in fields if node.end_lineno in beside}


def _type(annotation: Any, limits: Iterable[Any] = ()) -> str:
    """In words: `integer ≥ 1`, `"a" or "b"`, `list of text`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0], inner[1:])
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(one, limits) for one in inner if one is not type(None))
    if origin in (tuple, list):
        count = f"{len(inner)} × " if origin is tuple and inner[-1] is not ... else ""
        return f"list of {count}{_type(inner[0])}"
    bounds = [f"{sign} {value:g}" for name, sign in _RANGES if (value := _limit(limits, name)) is not None]
    return " ".join([_NAMES[origin or annotation], ", ".join(bounds)]).strip()


def _limit(limits: Iterable[Any], name: str) -> float | None:
    """`Field(...)` of an Annotated inside a union keeps its own list; elsewhere pydantic has unpacked it."""
    for one in limits:
        value = getattr(one, name, None)
        if value is None and hasattr(one, "metadata"):
            value = _limit(one.metadata, name)
        if value is not None:
            return float(value)
    return None
