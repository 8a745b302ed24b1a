"""A run at two width multipliers: trained, killed and resumed, reported, exported at either and validated."""

from __future__ import annotations

import csv
import json
import shutil
from math import ceil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

import aurep
from aurep.activation import HybridActivation
from aurep.cli.export import command
from aurep.data import load_data
from aurep.training import RunResult, load_run
from aurep.training.config import Config
from aurep.validators import validate
from tests.toolkit.training.stopping import stopped_at
from tests.toolkit.training.tiny import tiny_config

BUDGET = 97  # odd: no half of it is a count


def config(**overrides: object) -> Config:
    senet = {
        "search__method": "senet",
        "search__width_multipliers": [0.5, 1.0],
        "search__budget": BUDGET,
        "search__degree": 2,
    }
    return tiny_config(**{**senet, "finetune__pram_weight": 10, "baseline__epochs": 3, **overrides})


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return aurep.train(config(), tmp_path_factory.mktemp("runs") / "whole")


def kept_in_first_half(run: Path) -> int:
    """Counted in the checkpoint's own masks, by hand."""
    tensors = load_file(run / "model.safetensors")
    masks = [tensor for name, tensor in tensors.items() if name.endswith(".mask")]
    assert len(masks) == 8
    return sum(int(mask[: ceil(len(mask) / 2)].sum()) for mask in masks)


def test_counts_and_accuracies_of_both_widths_are_reported(result: RunResult) -> None:
    (half,) = result.narrower
    assert (result.relu_count, result.relu_total) == (BUDGET, 960)
    assert (half.width_multiplier, half.relu_count, half.relu_total) == (0.5, kept_in_first_half(result.run_dir), 480)
    assert 0 < half.relu_count <= BUDGET
    facts = json.loads((result.run_dir / "run.json").read_text())
    assert facts["narrower"][0]["relu_count"] == half.relu_count
    assert "hybrid, width × 0.5" in (result.run_dir / "report.html").read_text()
    with (result.run_dir / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["val_accuracy_0.5"] != "" for row in rows] == [row["phase"] != "baseline" for row in rows]


def test_the_loaded_half_measures_what_the_run_claims(result: RunResult) -> None:
    run, data = load_run(result.run_dir).narrowed(0.5), load_data("digits")
    with torch.no_grad():
        hits = run.model(torch.from_numpy(data.normalise(data.x_test))).argmax(1).numpy() == data.y_test
    assert run.training.test_accuracy == result.narrower[0].test_accuracy == pytest.approx(100 * hits.mean())
    assert result.narrower[0].test_accuracy > 20  # ten classes: chance is 10
    assert run.training.width_multiplier == 0.5
    wide = load_run(result.run_dir)
    assert wide.training.width_multiplier is None
    sizes = [sum(p.numel() for n, p in r.model.named_parameters() if ".conv" in n) for r in (run, wide)]
    assert 0.24 < sizes[0] / sizes[1] < 0.26


def export(run: Path, bundle: Path, width: float, target: str = "onnx") -> Path:
    arguments = [str(run), "-o", str(bundle), "--width-multiplier", str(width), "--target", target, "--no-validate"]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return bundle


@pytest.mark.parametrize(("target", "width"), [("onnx", 1.0), ("onnx", 0.5), ("onnxruntime", 0.5)])
def test_each_width_exports_and_validates(target: str, width: float, result: RunResult, tmp_path: Path) -> None:
    report = validate(export(result.run_dir, tmp_path / "bundle", width, target), run=result.run_dir)
    assert {check.name for check in report.checks} >= {"structure", "relu-count", "sites", "parity", "accuracy"}
    assert report.passed, report
    count = BUDGET if width == 1 else kept_in_first_half(result.run_dir)
    found = [sum(site[key] for site in report.sites) for key in ("kept", "elements")]
    assert [*found, report.relu_budget] == [count, round(960 * width), BUDGET]


def test_a_half_whose_mask_is_not_the_checkpoints_fails_validation(result: RunResult, tmp_path: Path) -> None:
    run = shutil.copytree(result.run_dir, tmp_path / "run")
    export(run, tmp_path / "b", 0.5)
    tensors = load_file(run / "model.safetensors")
    tensors["layer4.0.relu2.mask"][0] ^= True
    save_file(tensors, run / "model.safetensors")
    checks = {check.name: check for check in validate(tmp_path / "b", run=run).checks}
    assert not checks["sites"].passed
    assert "layer4.0.relu2: its mask is not the checkpoint's" in checks["sites"].hint


def test_a_width_that_was_not_trained_is_refused(result: RunResult, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [str(result.run_dir), "-o", str(tmp_path / "b"), "--width-multiplier", "0.75"])
    assert isinstance(done.exception, aurep.AurepError)
    assert "was trained at width multiplier 0.5, 1, not 0.75" in str(done.exception)


def test_run_killed_in_search_and_in_finetuning_ends_as_an_uninterrupted_one(result: RunResult, tmp_path: Path) -> None:
    for attempt, death in enumerate([("search", 1, 5), ("finetune", 0, 7)]):
        with stopped_at(death):
            aurep.train(config(), tmp_path / "run", resume=attempt > 0)
    aurep.train(config(), tmp_path / "run", resume=True)
    for name in ("model.safetensors", "last.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (result.run_dir / name).read_bytes()


@pytest.mark.parametrize("method", ["snl", "saliency", "autorep"])
def test_other_methods_train_widths_too(method: str, result: RunResult, tmp_path: Path) -> None:
    overrides = {"search__method": method, "search__epochs": 1, "finetune__epochs": 0}
    overrides |= {"baseline__checkpoint": str(result.run_dir), "finetune__pram_weight": 0}
    found = aurep.train(config(**overrides, search__range_weight=1e-5), tmp_path / "run")
    assert found.relu_count == BUDGET
    assert found.narrower[0].relu_count == kept_in_first_half(tmp_path / "run")
    model = load_run(tmp_path / "run").narrowed(0.5).model
    assert not any(module.blend for module in model.modules() if isinstance(module, HybridActivation))


@pytest.mark.parametrize("widths", ["[0.5]", "[0.5, 0.5, 1.0]", "[0.0, 1.0]", "[1.5, 1.0]", "[]"])
def test_widths_without_sense_are_refused(widths: str) -> None:
    with pytest.raises(aurep.AurepError, match=r"search\.width_multipliers"):
        tiny_config(search__width_multipliers=widths)
