"""Fixtures of the validators' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.validators import graphs


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """An honest bundle: one site of 144 elements of which 20 are kept."""
    return graphs.bundle(tmp_path / "bundle")
