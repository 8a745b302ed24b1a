"""When the C++ kernels are built, and what happens where they cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import cpp_extension

from aurep.kernels import cpu_build, eager, kernels_for, using
from tests.needs import needs_cpu_kernels


def test_it_builds_where_the_tools_are() -> None:
    """Other tests skip where the kernels are missing, and a mistake in their source must not pass as that."""
    missing = cpu_build._missing()
    if missing is not None:
        pytest.skip(missing)
    assert cpu_build.available(), cpu_build.describe()
    assert not cpu_build.must_build()


@needs_cpu_kernels
def test_one_that_is_there_is_not_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """ninja would: by the paths of another copy of aurep, it takes the library for one of something else."""

    def fail(*arguments: Any, **options: Any) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(cpp_extension, "load", fail)
    cpu_build._load()


def test_a_build_that_was_killed_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "building").mkdir()
    (tmp_path / "building/aurep_cpu.so").write_bytes(b"half")

    def build(name: str, *arguments: Any, build_directory: str, **options: Any) -> None:
        assert not any(Path(build_directory).iterdir())
        Path(build_directory, f"{name}.so").write_bytes(b"whole")
        assert not (tmp_path / "aurep_cpu.so").exists()

    monkeypatch.setattr(cpu_build, "_folder", lambda: tmp_path)
    monkeypatch.setattr(cpp_extension, "load", build)
    cpu_build._load()
    assert (tmp_path / "aurep_cpu.so").read_bytes() == b"whole"
    assert not (tmp_path / "building").exists()


@pytest.mark.parametrize("missing", ["c++", "ninja"])
def test_without_tools_eager_takes_over(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_build.shutil, "which", lambda name: None if name == missing else name)
    monkeypatch.setenv("CXX", "c++")
    monkeypatch.setattr(cpu_build, "_build", cpu_build._build.__wrapped__)
    with using("compiled"):
        assert kernels_for(torch.zeros(1, 2)) is eager
    assert not cpu_build.must_build()
    assert missing in cpu_build.describe()


def test_a_failing_compiler_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("Error building extension\nand pages of output")

    monkeypatch.setattr(cpu_build, "_load", fail)
    monkeypatch.setattr(cpu_build.shutil, "which", lambda name: name)
    monkeypatch.setattr(cpu_build, "_build", cpu_build._build.__wrapped__)
    assert cpu_build.describe() == "eager, since it cannot be built (Error building extension)"
