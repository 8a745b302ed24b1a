"""What pytest finds where aurep is installed: a fixture that validates files, as `aurep validate` does.

def test_the_model(aurep_validate):
    aurep_validate("bundle", budget="5%")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from aurep.errors import AurepError

if TYPE_CHECKING:
    from aurep.validators.report import Report


class Validate(Protocol):
    """See `aurep_validate`."""

    def __call__(self, path: str | Path, *, budget: str | int | None = None, **options: Any) -> Report: ...


@pytest.fixture(scope="session")
def aurep_validate() -> Validate:
    """`aurep.validate` that fails the test with a sentence for each failed check, or for a file that it refuses.

    It takes a bundle folder or an ONNX file, and the options of `aurep.validate`; it returns the report.
    """
    return _validate


def _validate(path: str | Path, *, budget: str | int | None = None, **options: Any) -> Report:
    from aurep.validators import render, validate

    try:
        report = validate(path, budget=budget, **options)
    except AurepError as error:
        pytest.fail(str(error), pytrace=False)
    failed = [render.summary(check) for check in report.checks if not check.passed]
    if failed:
        pytest.fail("\n".join([render.verdict(report), *failed]), pytrace=False)
    return report
