"""The import order that CONTRIBUTING states, held by what the files say."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOMES = {"aurep.exporters": ROOT / "exporters", "aurep.validators": ROOT / "validators", "aurep": ROOT / "toolkit"}
STATED = re.search(r"Imports go one way.*?(?=\n## )", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
BLOCKS = re.findall(r"(?:^    .+\n)+", STATED[0], re.MULTILINE) if STATED else []


def imports() -> Iterator[tuple[str, str]]:
    """(module, what it imports), wherever in the module the import stands."""
    for package, home in HOMES.items():
        for file in home.rglob("*.py"):
            module = ".".join([package, *file.relative_to(home).with_suffix("").parts]).removesuffix(".__init__")
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    yield from ((module, alias.name) for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    assert not node.level, f"{module} imports relatively"
                    yield from ((module, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize(("package", "block"), [*zip(("aurep", "aurep.validators"), BLOCKS, strict=True)])
def test_imports_go_the_way_that_contributing_states(package: str, block: str) -> None:
    rows = [line.strip().split(", ") for line in block.splitlines()]
    floor = {f"{package}.{room}": -number for number, row in enumerate(rows) for room in row}
    depth = package.count(".") + 2
    for module, imported in imports():
        here, there = (".".join(name.split(".")[:depth]) for name in (module, imported))
        if here == package or not all(name.startswith(f"{package}.") for name in (here, there)):
            continue  # the package's own lazy names, and what lies outside of it
        assert {here, there} <= floor.keys(), f"CONTRIBUTING gives no row to {here} or {there}"
        assert here == there or floor[here] > floor[there], f"{module} imports {imported}"
