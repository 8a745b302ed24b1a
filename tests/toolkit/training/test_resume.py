"""A run that is killed anywhere and resumed ends bit for bit as one that was not."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aurep.training.checkpoint import RunFolder
from tests.toolkit.training.tiny import RECIPE

EPOCHS = 3


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    text = RECIPE.replace("epochs = 2", f"epochs = {EPOCHS}")
    # With what else has a state of its own, or runs another graph than it saves.
    path.write_text(text.replace("[train]", "[train]\nfuse = true").replace("[finetune]", "[finetune]\nema = 0.9"))
    return path


@pytest.fixture(scope="module")
def uninterrupted(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert start(recipe, out).wait() == 0
    return out


def start(recipe: Path, out: Path, resume: bool = False) -> subprocess.Popen[bytes]:
    arguments = ["--resume", str(out)] if resume else [str(recipe), "--out", str(out)]
    command = [sys.executable, "-c", "from aurep.cli import main; main()", "train", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # bit-equality is promised for one thread count
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def stop(process: subprocess.Popen[bytes], out: Path, rows: int, delay: float, number: int) -> int:
    """Signal the process `delay` seconds after `rows` epochs are on disk."""
    deadline = time.monotonic() + 120
    while process.poll() is None and epochs_done(out) < rows:
        assert time.monotonic() < deadline, "the run made no progress"
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(number)
    return process.wait()


def epochs_done(out: Path) -> int:
    metrics = out / "metrics.csv"
    return len(metrics.read_text().splitlines()) - 1 if metrics.exists() else 0


def assert_equal_runs(left: Path, right: Path) -> None:
    for name in ("model.safetensors", "teacher.safetensors", "last.safetensors"):
        assert (left / name).read_bytes() == (right / name).read_bytes(), name
    assert rows(left) == rows(right)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="") as stream:
        return [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(stream)]


@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_at_random_moments(seed: int, recipe: Path, uninterrupted: Path, tmp_path: Path) -> None:
    draw = random.Random(seed)
    out = tmp_path / "run"
    process = start(recipe, out)
    for rows_done in sorted(draw.sample(range(1, 3 * EPOCHS), 2)):
        stop(process, out, rows_done, draw.uniform(0, 0.4), signal.SIGKILL)
        process = start(recipe, out, resume=True)
    assert process.wait() == 0
    assert_equal_runs(out, uninterrupted)


def test_sigterm_saves_within_the_epoch_and_exits(recipe: Path, uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code = stop(start(recipe, out), out, EPOCHS + 1, 0.05, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert RunFolder(out).load_checkpoint()[1]["phase"] in ("search", "finetune")
    assert start(recipe, out, resume=True).wait() == 0
    assert_equal_runs(out, uninterrupted)


def test_kill_between_the_two_renames_of_a_checkpoint_loses_nothing(uninterrupted: Path, tmp_path: Path) -> None:
    """The state on disk still names the weights before, which are kept until the next checkpoint."""
    folder = RunFolder(tmp_path)
    first = (uninterrupted / "last.safetensors").read_bytes()
    state = (uninterrupted / "last.state").read_bytes()
    folder.state.write_bytes(state)
    folder.previous.write_bytes(first)
    folder.weights.write_bytes(b"the weights of a later checkpoint")
    weights, _ = folder.load_checkpoint()
    assert "layer1.0.relu1.mask" in weights
