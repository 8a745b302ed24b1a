"""`aurep export` on a run of the tiny recipe."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from aurep.cli.export import command
from aurep.exporters import TARGETS, export_run
from aurep.exporters.runs import default_calibration
from aurep.metadata import InputClaim, Metadata, TrainingClaim
from aurep.training import train
from aurep.validators.report import Check, Report
from tests.toolkit.training.tiny import tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    # After a single epoch of finetuning a channel leaves its certificate on the test images, by 4 %.
    train(tiny_config(baseline__epochs=1, search__epochs=1, finetune__epochs=3), folder)
    return folder


def test_the_command_offers_every_target() -> None:
    assert set(TARGETS) == {"onnx", "onnxruntime", "crypten", "spu", "helayers", "mask"}
    shown = CliRunner().invoke(command, ["--help"]).output
    assert all(name in shown for name in TARGETS)


def test_a_run_becomes_a_bundle(run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [str(run), "-o", str(tmp_path / "b"), "--no-validate"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"wrote {tmp_path / 'b' / 'model.onnx'} (")
    found = Metadata.from_props({p.key: p.value for p in onnx.load(tmp_path / "b" / "model.onnx").metadata_props})
    checkpoint = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    claimed = json.loads((run / "run.json").read_text())
    assert (found.relu_budget, found.checkpoint) == (claimed["relu_budget"], checkpoint)
    assert found.input == InputClaim.model_validate(claimed["input"])
    assert list(found.classes) == claimed["classes"]
    assert found.training == TrainingClaim.model_validate(claimed["training"])
    assert found.relu_count == found.relu_budget


@pytest.mark.parametrize(
    ("shape", "images"),
    [((3, 32, 32), 4096), ((1, 28, 28), 4096), ((3, 64, 64), 1024), ((3, 224, 224), 512)],
)
def test_larger_images_certify_in_smaller_numbers(shape: tuple[int, ...], images: int) -> None:
    assert default_calibration(shape) == images


def test_ranges_are_certified_on_as_many_images_as_asked(run: Path, tmp_path: Path) -> None:
    """The first ones are among the others, so that the range of more is never narrower."""
    found = {}
    for images in (64, 512):
        arguments = [str(run), "-o", str(tmp_path / f"{images}"), "--calibration-images", str(images), "--no-validate"]
        done = CliRunner().invoke(command, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        found[images] = json.loads((tmp_path / f"{images}" / "budget.json").read_text())["ranges"]
        assert found[images]["images"] == images
    pairs = list(zip(found[64]["sites"], found[512]["sites"], strict=True))
    lows = [(few, many) for a, b in pairs for few, many in zip(a["low"], b["low"], strict=True)]
    highs = [(few, many) for a, b in pairs for few, many in zip(a["high"], b["high"], strict=True)]
    assert all(many <= few for few, many in lows)
    assert all(many >= few for few, many in highs)
    assert lows != [(few, few) for few, _ in lows]
    assert CliRunner().invoke(command, [str(run), "-o", "x", "--calibration-images", "8"]).exit_code == 2


def test_target_and_batch_are_passed_on(run: Path, tmp_path: Path) -> None:
    arguments = [str(run), "-o", str(tmp_path / "m.onnx"), "--target", "crypten", "--batch", "4", "--no-validate"]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    saved = onnx.load(tmp_path / "m.onnx")
    assert saved.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_constants_are_pushed_on_request(run: Path, tmp_path: Path) -> None:
    """Validated against the run, whose masks and coefficients are recovered bit for bit."""
    arguments = [str(run), "-o", str(tmp_path / "b"), "--push-constants", "--target"]
    done = CliRunner().invoke(command, [*arguments, "onnxruntime"])
    assert done.exit_code == 0, done.output
    assert not [node.name for node in onnx.load(tmp_path / "b" / "model.onnx").graph.node if "Add_c0" in node.name]
    assert "moved out of" in " ".join(done.output.split())
    refused = CliRunner().invoke(command, [*arguments, "spu"])
    assert "push constants with target onnxruntime only" in str(refused.exception)


def test_exporting_twice_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    first, second = export_run(run, tmp_path / "a"), export_run(run, tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()


def test_the_bundle_is_validated_against_the_run(run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [str(run), "-o", str(tmp_path / "b")])
    assert done.exit_code == 0, done.output
    assert all(check in done.output for check in ("structure", "relu-count", "sites", "parity"))


def test_a_failed_check_shows_its_hint_and_exits_with_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Report("m.onnx", "0", (Check("parity", 0.5, 1e-4, False, "the logits differ; export again."),))
    monkeypatch.setattr("aurep.validators.validate", lambda *_, **__: report, raising=False)
    done = CliRunner().invoke(command, [str(run), "-o", str(tmp_path / "b")])
    assert done.exit_code == 1
    assert "parity" in done.output
    assert "the logits differ; export again." in done.output


@pytest.mark.parametrize("batch", ["0", "-1", "many", "²"])
def test_a_wrong_batch_gets_a_sentence(batch: str, run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [str(run), "-o", str(tmp_path / "b"), "--batch", batch])
    assert f"--batch {batch!r} is neither" in str(done.exception)
