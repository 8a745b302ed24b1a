"""The package as a user installs it: folders, import cost, command line start-up, licence."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import aurep
from aurep import metadata

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_folder_is_listed() -> None:
    homes = {"aurep": ROOT / "toolkit", "aurep.exporters": ROOT / "exporters", "aurep.validators": ROOT / "validators"}
    found = set()
    for package, home in homes.items():
        for init in home.rglob("__init__.py"):
            found.add(".".join([package, *init.parent.relative_to(home).parts]))
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(found)


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; import json; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout.splitlines()[-1]))


HEAVY = {"torch", "onnx", "onnxruntime", "lightning_fabric", "pydantic", "rich", "pooch"}


@pytest.mark.parametrize("statement", ["import aurep", "import aurep.cli"])
def test_start_up_imports_nothing_heavy(statement: str) -> None:
    loaded = modules_after(statement)
    assert not HEAVY & loaded
    assert ("numpy" in loaded) is False


def test_validators_do_without_torch() -> None:
    assert "torch" not in modules_after("import aurep.validators")


def test_every_public_name_resolves() -> None:
    for name in aurep.__all__:
        assert getattr(aurep, name) is not None
    assert set(aurep.__all__) <= set(dir(aurep))
    with pytest.raises(AttributeError, match="nothing"):
        aurep.nothing  # noqa: B018  (the access is the test)


def test_packages_are_attributes_without_an_import_of_their_own() -> None:
    """In a process of its own: here they are imported already."""
    code = "import aurep; assert aurep.validators.count_relus is aurep.count_relus; assert aurep.exporters.TARGETS"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_shipped_json_schema_is_the_current_one() -> None:
    shipped = Path(metadata.__file__).with_name("budget.schema.json").read_text()
    assert shipped == metadata.json_schema()


def test_torch_is_not_pinned_to_a_build() -> None:
    assert not any("+" in dependency for dependency in PROJECT["project"]["dependencies"])
