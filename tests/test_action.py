"""action.yml: its shell steps are run, with inputs where the runner would put them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import aurep

ACTION = yaml.safe_load((Path(__file__).parent.parent / "action.yml").read_text())
STEPS: dict[str, dict[str, Any]] = {step["name"]: step for step in ACTION["runs"]["steps"]}
AUREP = f'#!/bin/sh\nexec "{sys.executable}" -c "from aurep.cli import main; main()" "$@"\n'


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that keeps 5 of its 2 x 8 x 8 ReLUs."""
    torch.manual_seed(0)
    x = torch.randn(2, 1, 8, 8)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)).eval()
    hybrid = aurep.prepare(model, x[:1])
    aurep.fit_polynomials(hybrid, [x])
    mask = torch.zeros(2, 8, 8)
    mask.view(-1)[:5] = 1
    aurep.set_mask(hybrid, "1", mask)
    return Path(aurep.export(hybrid, x[:1], tmp_path_factory.mktemp("export") / "model.onnx"))


@dataclass
class Ran:
    """What a step's shell did: exit code, what it printed, its outputs, and the folder it ran in."""

    code: int
    text: str
    outputs: dict[str, str]
    folder: Path


def run(step: str, folder: Path, inputs: dict[str, str], **values: str) -> Ran:
    """`values` are those of other expressions, by their last word."""
    known = {name: str(entry.get("default", "")) for name, entry in ACTION["inputs"].items()} | inputs | values
    env = {name: re.sub(r"\$\{\{ .*?([\w-]+) \}\}", lambda m: known[m[1]], v) for name, v in STEPS[step]["env"].items()}
    output = folder / "output"
    output.touch()
    script = folder / "step.sh"
    script.write_text(STEPS[step]["run"])
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        cwd=folder,
        env={**os.environ, **env, "RUNNER_TEMP": str(folder), "GITHUB_OUTPUT": str(output), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    found = dict(line.split("=", 1) for line in output.read_text().splitlines())
    return Ran(done.returncode, done.stdout + done.stderr, found, folder)


def validated(folder: Path, **inputs: str) -> Ran:
    """The step that validates, after one that installed."""
    installed = folder / "aurep" / "bin" / "aurep"
    installed.parent.mkdir(parents=True)
    installed.write_text(AUREP)
    installed.chmod(0o755)
    return run("Validate", folder, inputs)


def commands(text: str) -> list[str]:
    """The workflow commands that GitHub takes from what a step printed."""
    found, token = [], None
    for line in text.splitlines():
        if token is not None:
            token = None if line == f"::{token}::" else token
        elif line.startswith("::stop-commands::"):
            token = line.removeprefix("::stop-commands::")
        elif line.lstrip().startswith("::"):
            found.append(line)
    return found


def test_a_good_file_passes_with_a_report(file: Path, tmp_path: Path) -> None:
    done = validated(tmp_path, file=str(file), budget="5", options="--target onnx\n--provider cpu")
    assert done.code == 0, done.text
    report = Path(done.outputs["report"])
    assert sorted(entry.name for entry in report.iterdir()) == ["junit.xml", "report.html", "report.json"]
    found = json.loads((report / "report.json").read_text())
    assert (found["passed"], found["relu_count"], found["relu_budget"], found["provider"]) == (True, 5, 5, "cpu")
    (line,) = commands(done.text)
    assert line.startswith("::notice file=")


def test_a_bad_file_fails_with_an_annotation_and_a_report(file: Path, tmp_path: Path) -> None:
    done = validated(tmp_path, file=str(file), budget="4")
    assert done.code == 1
    assert not json.loads((Path(done.outputs["report"]) / "report.json").read_text())["passed"]
    (line,) = commands(done.text)
    assert line.startswith("::error file=")
    assert "5 ReLU-like elements" in line


def test_what_cannot_be_read_is_an_annotation(file: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "model.onnx"
    damaged.write_bytes(file.read_bytes()[:-100])
    done = validated(tmp_path, file=str(damaged))
    assert done.code == 2
    (line,) = commands(done.text)
    assert line.startswith("::error file=")
    assert "truncated" in line


@pytest.mark.parametrize("text", ["$(touch pwned)", "`touch pwned`", '"; touch pwned; "', "'; touch pwned; '"])
def test_inputs_are_never_run(text: str, tmp_path: Path) -> None:
    done = validated(tmp_path, **dict.fromkeys(("file", "budget", "run", "data", "options"), text))
    assert done.code == 2
    assert not (tmp_path / "pwned").exists()


def test_expressions_stand_outside_of_shells() -> None:
    for step in STEPS.values():
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize(("version", "wanted"), [("", "/the/action"), ("0.1.0", "aurep==0.1.0")])
def test_what_is_installed(version: str, wanted: str, tmp_path: Path) -> None:
    """A Python that notes what it is told to do stands in for the one set up."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nmkdir -p "$3/bin" && cp "$0" "$3/bin/python"; echo "$@" >> noted\n')
    python.chmod(0o755)
    done = run(
        "Install aurep", tmp_path, {"version": version}, **{"python-path": str(python), "action_path": "/the/action"}
    )
    assert done.code == 0, done.text
    made, installed = (tmp_path / "noted").read_text().splitlines()
    assert made == f"-m venv {tmp_path}/aurep"
    assert installed == f"-m pip install --quiet -- {wanted}"


def test_inputs_and_outputs_are_used() -> None:
    text = yaml.safe_dump(ACTION["runs"])
    assert all(f"${{{{ inputs.{name} }}}}" in text for name in ACTION["inputs"])
    assert all(entry["description"] for entry in (*ACTION["inputs"].values(), *ACTION["outputs"].values()))
