"""A student that collapsed is named and fails; one that is slow to learn is not."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from torch import nn

import aurep
from aurep.cli import main
from aurep.data.embedded import read_digits
from aurep.errors import Collapsed
from aurep.surgery import hybrid_sites, normalise_polynomials
from aurep.training import train
from aurep.training.collapse import LargestInputs, Standard
from tests.toolkit.training.tiny import tiny_config

TEACHER = Standard(accuracy=80.0, chance=10.0, images=5000, inputs={"a": 5.0, "b": 0.5})


@pytest.mark.parametrize(
    ("accuracy", "collapsed"),
    [(10.0, True), (11.2, True), (16.9, True), (17.2, False), (50.0, False), (80.0, False)],
)
def test_collapsed_is_at_chance_or_under_a_tenth_of_what_the_teacher_gained(accuracy: float, collapsed: bool) -> None:
    assert TEACHER.collapsed(accuracy, 1000, False) is collapsed


def test_after_few_steps_only_exploded_inputs_are_a_verdict() -> None:
    assert not TEACHER.collapsed(10.0, 99, exploded=False)
    assert TEACHER.collapsed(10.0, 99, exploded=True)


def test_exploded_inputs_come_back_only_where_powers_are_normalised() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    student = aurep.prepare(network, torch.zeros(1, 3))
    assert TEACHER.beyond_return({"a": 6000.0, "b": 0.5}, hybrid_sites(student))
    assert not TEACHER.beyond_return({"a": 6.0, "b": 0.5}, hybrid_sites(student))
    normalise_polynomials(student, [torch.randn(16, 3)])
    assert not TEACHER.beyond_return({"a": 6000.0, "b": 0.5}, hybrid_sites(student))


def test_a_teacher_near_chance_is_no_measure() -> None:
    assert not Standard(accuracy=11.0, chance=10.0, images=200, inputs={}).collapsed(9.0, 1000, False)


def test_the_verdict_names_the_first_site_whose_inputs_grew_and_what_to_change() -> None:
    sentence = TEACHER.verdict("finetune", 10.02, {"a": 4.0, "b": 116224.0})
    assert "accuracy 10.02 % where the teacher has 80.00 %" in sentence
    assert "the inputs of b grew from 0.5 to 1.162e+05" in sentence
    assert "finetune.lr" in sentence
    assert "no site's inputs grew" in TEACHER.verdict("search", 10.0, {"a": 4.0, "b": 0.4})


def test_exploded_is_a_thousand_times_the_inputs_of_before() -> None:
    assert TEACHER.exploded({"a": 5001.0, "b": 0.5})
    assert not TEACHER.exploded({"a": 4999.0, "b": 900.0})  # b's were under 1: held against that


def test_a_teacher_whose_own_inputs_are_huge_is_warned_of() -> None:
    assert TEACHER.warning is None
    huge = Standard(accuracy=10.0, chance=10.0, images=5000, inputs={"a": 65535.0, "b": 1e5, "c": float("inf")})
    assert huge.warning is not None
    assert "inputs of b reach 1e+05" in huge.warning
    assert "baseline.lr" in huge.warning


def test_a_student_that_overflows_on_an_image_is_warned_of_unless_its_teacher_does() -> None:
    assert TEACHER.unanswered("finetune", {"a": 65535.0, "b": 0.5}) is None
    sentence = TEACHER.unanswered("finetune", {"a": 40.0, "b": float("inf")})
    assert sentence is not None
    assert "the inputs of b reach inf, where the teacher's reach 0.5" in sentence
    assert "finetune.range_weight" in sentence
    huge = Standard(accuracy=80.0, chance=10.0, images=5000, inputs={"a": 5.0, "b": 1e5})
    assert huge.unanswered("finetune", {"a": 40.0, "b": float("inf")}) is None


@pytest.mark.parametrize("glaring", [False, True])
def test_a_run_that_overflows_on_an_image_unlike_the_others_says_so(tmp_path: Path, glaring: bool) -> None:
    """Faint digits, and in validation one white image."""
    raw = read_digits()
    faint = raw.x_train // 16
    if glaring:
        faint[0] = 255
    parts = {"x_train": faint[200:], "y_train": raw.y_train[200:], "x_val": faint[:200], "y_val": raw.y_train[:200]}
    np.savez(tmp_path / "faint.npz", **parts, x_test=raw.x_test // 16, y_test=raw.y_test)
    said = io.StringIO()
    config = tiny_config(data__name=f"'npz:{tmp_path / 'faint.npz'}'", search__budget=0, search__epochs=1)
    result = train(config, tmp_path / "run", console=Console(file=said, width=1000))
    assert ("Warning: on a validation image the inputs of" in said.getvalue()) is glaring
    assert result.relu_count == 0


def test_a_run_whose_teacher_explodes_in_evaluation_says_so(tmp_path: Path) -> None:
    """A rate that throws the weights about while the running statistics stand still."""
    arguments = ["train", "--data", "digits", "--budget", "10%", "--out", str(tmp_path / "run"), "--device", "cpu"]
    settings = ["model.width=2", "train.precision=fp32", "train.batch_size=256", "baseline.epochs=1", "baseline.lr=1e3"]
    settings += ["search.method=random", "search.epochs=0", "finetune.epochs=0"]
    outcome = CliRunner().invoke(main, [*arguments, *(f for s in settings for f in ("--set", s))])
    assert outcome.exit_code == 0, outcome.output
    assert "Warning: in evaluation the teacher's own inputs of" in outcome.output


def test_largest_inputs_are_those_that_the_sites_saw() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
    student = aurep.prepare(network, torch.zeros(1, 3)).eval()
    x = torch.randn(7, 3)
    with LargestInputs(hybrid_sites(student)) as largest:
        student(x)
        student(2 * x)
    with torch.no_grad():
        first = max(float(network[0](x).abs().max()), float(network[0](2 * x).abs().max()))
    assert largest.values["1"] == pytest.approx(first)
    student(100 * x)  # behind the block nobody looks
    assert largest.values["1"] == pytest.approx(first)
    with LargestInputs(hybrid_sites(student)) as largest:
        student(torch.full((1, 3), torch.nan))
    assert largest.values["1"] == float("inf")


def test_a_run_whose_student_collapses_fails_and_is_no_finished_run(tmp_path: Path) -> None:
    """Rates that throw the network away: exit code 1, the sentence, no run.json."""
    arguments = ["train", "--data", "digits", "--budget", "0", "--out", str(tmp_path / "run"), "--device", "cpu"]
    settings = [
        "model.width=8",
        "train.batch_size=32",
        "baseline.epochs=6",
        "search.epochs=3",
        "finetune.epochs=3",
        "search.lr=30",
    ]
    settings += ["finetune.lr=30", "train.precision=fp32", "search.method=random"]
    outcome = CliRunner().invoke(main, [*arguments, *(f for s in settings for f in ("--set", s))])
    assert outcome.exit_code == 1, outcome.output
    assert "finetune collapsed: accuracy" in outcome.output
    assert "Warning: search collapsed" in outcome.output
    assert not (tmp_path / "run" / "run.json").exists()
    assert issubclass(Collapsed, aurep.AurepError)
