"""The frameworks' environments: installed by the tests, kept in this user's cache folder between runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aurep.frameworks import FRAMEWORKS
from aurep.handoff.environment import CannotInstallError, setup


@pytest.fixture(scope="session")
def python_of() -> Callable[[str], Path]:
    """The interpreter of a framework. Where it cannot be installed the test is skipped with the reason; in CI it
    fails."""

    def find(name: str) -> Path:
        try:
            return setup(FRAMEWORKS[name])
        except CannotInstallError as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(error))

    return find
