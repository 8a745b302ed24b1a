"""Environments of the frameworks: made once, whole or not at all, and refused with the reason."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from aurep import AurepError
from aurep.cli import main
from aurep.frameworks import DRIVEN, FRAMEWORKS, Framework, Parties, Protocol, find_driven
from aurep.handoff.environment import VARIABLE, CannotInstallError, check_python, environment, find_python, setup
from aurep.handoff.session import PARTIES

HERE = sys.version_info[1]


def toy(name: str, requirements: tuple[str, ...], pythons: tuple[int, ...], modules: tuple[str, ...]) -> Framework:
    protocols = (Protocol("only", ("owner", "guest")),)
    return Framework(name, protocols=protocols, parties=Parties(requirements, pythons, modules))


EMPTY = toy("empty", (), (HERE,), ("json",))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "environments"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # nothing here is about packages of the network
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)


def wheel(folder: Path, name: str) -> str:
    """A wheel of one empty module, as a requirement by its path."""
    import zipfile

    file = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.py", "")
        info = f"{name}-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return str(file)


def test_an_environment_is_made_once_and_anew_where_it_was_left_half_made(tmp_path: Path) -> None:
    framework = toy("toy", (wheel(tmp_path, "toymodule"),), (HERE,), ("toymodule",))
    with pytest.raises(AurepError, match=r"toy has no environment yet.*aurep handoff --setup toy"):
        find_python(framework)
    folder = environment(framework)
    folder.mkdir(parents=True)
    (folder / "rubbish").write_text("from a set-up that was stopped")
    said: list[str] = []
    python = setup(framework, said.append)
    assert said
    assert not (folder / "rubbish").exists()
    assert find_python(framework) == python
    check_python(framework, python)
    said.clear()
    assert setup(framework, said.append) == python
    assert not said
    with pytest.raises(AurepError, match=r"lacks what other needs .*nowhere"):
        check_python(toy("other", (), (HERE,), ("nowhere",)), python)


def test_what_cannot_be_installed_leaves_nothing_usable() -> None:
    framework = toy("absent", ("aurep-is-not-a-package==9",), (HERE,), ("json",))
    with pytest.raises(CannotInstallError, match=r"absent cannot be installed here \(.*aurep-is-not-a-package"):
        setup(framework)
    with pytest.raises(AurepError, match="no environment yet"):
        find_python(framework)


def test_a_python_that_there_are_no_wheels_for_is_named() -> None:
    with pytest.raises(CannotInstallError, match=r"needs Python 3\.1, this is 3\."):
        setup(toy("old", (), (1,), ()))


def test_a_given_python_must_run(tmp_path: Path) -> None:
    with pytest.raises(AurepError, match="does not run"):
        find_python(EMPTY, tmp_path / "nothing")


def test_protocols_are_found_in_any_case() -> None:
    spu = find_driven("spu")
    assert spu.protocol(None).name == "SEMI2K"
    assert spu.protocol("aby3").name == "ABY3"
    with pytest.raises(AurepError, match=r"spu has no protocol 'GMW' here; choose one of SEMI2K, ABY3, CHEETAH"):
        spu.protocol("GMW")
    with pytest.raises(AurepError, match="no framework 'ezpc'"):
        find_driven("ezpc")
    with pytest.raises(AurepError, match="no framework 'onnxruntime' to run; choose one of crypten, helayers, spu"):
        find_driven("onnxruntime")


def test_every_framework_that_is_driven_has_its_program() -> None:
    assert set(DRIVEN) == {file.stem.removesuffix("_party") for file in PARTIES.glob("*_party.py")}


def test_the_command_refuses_half_a_request(tmp_path: Path) -> None:
    for arguments in ([], [str(tmp_path)], ["--to", "spu"], [str(tmp_path), "--setup", "spu"]):
        assert CliRunner().invoke(main, ["handoff", *arguments]).exit_code == 2


@pytest.mark.parametrize("file", sorted(PARTIES.glob("*.py")), ids=lambda file: file.name)
def test_parties_need_nothing_of_aurep(file: Path) -> None:
    """They run where aurep is not installed; a name that shadows a framework's module would break its import."""
    assert file.stem not in FRAMEWORKS
    for node in ast.walk(ast.parse(file.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.split(".")[0] == "aurep" for name in names)
