"""What happens where the C++ kernels cannot be built."""

from __future__ import annotations

import pytest
import torch

from aurep.kernels import cpu_build, eager, kernels_for, using


def test_it_builds_where_the_tools_are() -> None:
    """Other tests skip where the kernels are missing, and a mistake in their source must not pass as that."""
    missing = cpu_build._missing()
    if missing is not None:
        pytest.skip(missing)
    assert cpu_build.available(), cpu_build.describe()
    assert not cpu_build.must_build()


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
