"""A new target is two files, found by themselves: one in toolkit/frameworks/, one in exporters/targets/."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FRAMEWORK = """
from aurep.frameworks.fault import apply
from aurep.frameworks.framework import PAIR, FixedPoint, Framework, Protocol

_RULES = (("no-pooling", lambda call: call.op == "MaxPool", "is a pooling", "use a convolution"),)
FRAMEWORK = Framework(
    "novel",
    opset=16,
    opsets=(15, 16),
    faults=lambda graph: apply(_RULES, graph),
    fixed_point=FixedPoint(64, 14),
    protocols=(Protocol("Third", PAIR, bytes_per={"compared": 7}),),
)
"""
TARGET = """
from aurep.exporters.targets.target import Target
from aurep.frameworks.novel import FRAMEWORK

TARGET = Target(FRAMEWORK, "a framework of tomorrow", coefficients_as="constant")
"""
PROGRAM = """
import onnx, torch
from click.testing import CliRunner
from torch import nn

import aurep
from aurep.cli import main
from aurep.exporters import export
from aurep.validators import validate
from aurep.validators.inspection import inspect

torch.manual_seed(0)
images = torch.randn(8, 2, 6, 6)
plain = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
model = aurep.prepare(plain, images[:1])
aurep.fit_polynomials(model, [images])
aurep.set_mask(model, "1", torch.arange(64).reshape(4, 4, 4) < 10)
export(model, images[:1], "bundle", "novel")
assert {entry.domain: entry.version for entry in onnx.load("bundle/model.onnx").opset_import} == {"": 16}

report = validate("bundle")
assert (report.passed, report.target, report.relu_count) == (True, "novel", 10), report.checks
(fixed,) = [check for check in report.checks if check.name == "fixed-point"]
assert str(fixed.allowed).startswith(f"< {2.0 ** (63 - 28):.3g}"), fixed

(row,) = [row for row in inspect("bundle").estimates if row["framework"] == "novel"]
assert (row["protocol"], row["bytes"]) == ("Third", 70), row

pooled = nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)).eval()
try:
    export(pooled, images[:1], "pooled", "novel")
except aurep.AurepError as error:
    assert "target novel cannot take this model" in str(error) and "[no-pooling]" in str(error), error
else:
    raise SystemExit("the rule was not held")

for command in (["export", "--help"], ["validate", "--help"]):
    assert "novel" in CliRunner().invoke(main, command).output
assert "novel" not in CliRunner().invoke(main, ["handoff", "--help"]).output  # it has no party program
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder that holds aurep as it is installed, with the two files in it."""
    home = tmp_path / "aurep"
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "toolkit", home, ignore=skipped)
    for part in ("exporters", "validators"):
        shutil.copytree(ROOT / part, home / part, ignore=skipped)
    (home / "frameworks" / "novel.py").write_text(FRAMEWORK)
    (home / "exporters" / "targets" / "novel.py").write_text(TARGET)
    return tmp_path


def test_two_files_make_a_target(package: Path) -> None:
    settings = os.environ | {"PYTHONPATH": str(package)}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=package, env=settings, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
