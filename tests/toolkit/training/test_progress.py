"""What a run says while it works, by a clock that the test turns."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from rich.console import Console

import aurep
from aurep.cli import main
from aurep.models import build_model
from aurep.training.config import TrainConfig
from aurep.training.forecast import forecast, spoken, spoken_bytes
from aurep.training.progress import Progress
from tests.toolkit.training.tiny import tiny_config


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_log_file_gets_a_line_a_minute_within_an_epoch_with_the_time_left() -> None:
    clock, said = Clock(), io.StringIO()
    progress = Progress(Console(file=said, width=200), clock=clock)
    progress.plan({"baseline": 100, "search": 100}, {"baseline": 1.0, "search": 3.0})
    for step in range(1, 101):
        clock.now += 2.0  # twice as slow as forecast
        progress.step("baseline", 0, step, 100)
    lines = said.getvalue().splitlines()
    assert len(lines) == 3  # 200 seconds
    assert lines[0] == "baseline epoch 1, step 30 of 100, 8% of the run, about 12 min left"  # 370 of 400 weights, 740 s
    clock.now += 1.0
    progress.step("search", 0, 1, 100)
    assert len(said.getvalue().splitlines()) == 3


def test_nothing_is_said_of_the_time_left_before_the_pace_is_known() -> None:
    clock, said = Clock(), io.StringIO()
    progress = Progress(Console(file=said, width=200), clock=clock)
    progress.plan({"search": 1000}, {"search": 1.0})
    clock.now = 61.0
    progress.step("search", 0, 1, 1000)
    assert said.getvalue() == "search epoch 1, step 1 of 1,000\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (75, "75 s"), (100, "2 min"), (1500, "25 min"), (7800, "2 h 10 min"), (7200, "2 h")],
)
def test_times_are_said_as_one_would(seconds: float, words: str) -> None:
    assert spoken(seconds) == words


def test_bytes_are_said_as_one_would() -> None:
    assert [spoken_bytes(n) for n in (10, 5 * 2**20, 3 * 2**30)] == ["1 MiB", "5 MiB", "3.0 GiB"]


def test_a_forecast_leaves_networks_and_random_numbers_alone_and_counts_what_a_step_saves() -> None:
    plain = build_model("resnet9", num_classes=10, width=4, input_size=16)
    student = aurep.prepare(build_model("resnet9", num_classes=10, width=4), torch.zeros(1, 3, 16, 16))
    before = [{name: value.clone() for name, value in m.state_dict().items()} for m in (plain, student)]
    batches = [torch.randn(images, 3, 16, 16) for images in (4, 16, 64)]
    state = torch.get_rng_state()
    fabric = Fabric(accelerator="cpu", devices=1, plugins=LightningEnvironment())
    few, more, many = (forecast(plain, student, x, fabric, TrainConfig()) for x in batches)
    assert all(seconds > 0 for seconds in few.seconds.values())
    # What is saved for backward grows with the batch; parameters, masks and the like do not.
    assert (many.memory - more.memory) / (more.memory - few.memory) == pytest.approx(48 / 12, rel=0.01)
    assert few.memory > 4 * 4 * sum(p.numel() for p in student.parameters())  # fp32, four copies
    for network, values in zip((plain, student), before, strict=True):
        assert all(torch.equal(network.state_dict()[name], value) for name, value in values.items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_run_says_what_it_will_take_and_watching_it_changes_no_bit(tmp_path: Path) -> None:
    said = io.StringIO()
    console = Console(file=said, width=200)
    aurep.train(tiny_config(), tmp_path / "watched", console=console, verbose=True)
    aurep.train(tiny_config(), tmp_path / "silent")
    lines = said.getvalue().splitlines()
    reading = lines.index("reading digits")
    assert lines[reading - 1].startswith("precision: ")
    assert lines[reading + 1].startswith("training takes about ")
    assert "a step holds" in lines[reading + 1]
    assert (
        sum("layer1.0.relu1: largest input" in line for line in lines) == 4
    )  # two epochs of search, two of finetuning
    watched, silent = (tmp_path / name / "model.safetensors" for name in ("watched", "silent"))
    assert watched.read_bytes() == silent.read_bytes()


def test_quiet_says_nothing(tmp_path: Path) -> None:
    options = ["--data", "digits", "--device", "cpu", "--out", str(tmp_path / "run"), "--quiet"]
    settings = ["model.width=4", "baseline.epochs=1", "search.epochs=1", "finetune.epochs=0"]
    outcome = CliRunner().invoke(main, ["train", *options, *(f for s in settings for f in ("--set", s))])
    assert outcome.exit_code == 0, sys.exc_info()
    assert outcome.output == ""
