"""A run on image files that are streamed: resumed within an epoch, exported, validated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from aurep.cli import main
from aurep.training import load_run, train
from aurep.training.config import Config, parse_config
from tests.needs import needs_torchvision
from tests.toolkit.training.stopping import stopped_at

RECIPE = """
[model]
name = "resnet9"
width = 4
input_size = [8, 12]
[data]
flip = true
val_fraction = 0.25
mean = [0.4, 0.5, 0.6]
std = [0.2, 0.25, 0.3]
interpolation = "bicubic"
crop_pct = 0.9
stream = "yes"
[train]
batch_size = 8
device = "cpu"
[baseline]
epochs = 1
[search]
budget = "10%"
epochs = 2
calibration = 32
[finetune]
epochs = 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (root / name).mkdir()
        for i in range(40):
            coarse = random.integers(0, 128, (4, 5, 3), dtype=np.uint8) + (100 if name == "bee" else 0)
            image = Image.fromarray(coarse.astype(np.uint8)).resize((20 + i, 24))
            image.save(root / name / f"{i:02}.jpg", quality=95)
    return root


def config(folder: Path, **data: Any) -> Config:
    return parse_config(RECIPE, "streamed", [f"data.name=folder:{folder}", *(f"data.{k}={v}" for k, v in data.items())])


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config(folder, workers=0), tmp_path_factory.mktemp("runs") / "whole").run_dir


def weights(run: Path) -> list[bytes]:
    return [(run / name).read_bytes() for name in ("model.safetensors", "teacher.safetensors")]


def test_in_memory_and_cached_it_ends_with_the_same_bits(run: Path, folder: Path, tmp_path: Path) -> None:
    for i, data in enumerate(({"stream": "no"}, {"cache": tmp_path / "store"}, {"workers": 2})):
        assert weights(train(config(folder, **data), tmp_path / str(i)).run_dir) == weights(run), data


EVERYTHING = {"resized_crop": "[0.3, 1.0]", "randaugment": "[1, 5]", "mixup": 0.2, "cutmix": 1.0}


@needs_torchvision
def test_stopped_within_an_epoch_and_resumed_it_ends_with_the_same_bits(folder: Path, tmp_path: Path) -> None:
    whole = train(config(folder, workers=0, **EVERYTHING), tmp_path / "whole").run_dir
    with stopped_at(("search", 1, 2)):
        train(config(folder, workers=2, **EVERYTHING), tmp_path / "stopped")
    resumed = train(config(folder, workers=1, **EVERYTHING), tmp_path / "stopped", resume=True)
    assert weights(resumed.run_dir) == weights(whole)


def test_the_export_claims_how_inputs_are_made_and_validates(run: Path, folder: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    exported = CliRunner().invoke(main, ["export", str(run), "-o", str(bundle)])
    assert exported.exit_code == 0, exported.output
    claim = load_run(run).result.input
    assert (claim.shape, claim.mean, claim.std) == ((3, 8, 12), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    assert (claim.interpolation, claim.crop_pct) == ("bicubic", 0.9)
    assert json.loads((bundle / "budget.json").read_text())["input"]["crop_pct"] == 0.9
    arguments = [
        "validate",
        str(bundle),
        "--run",
        str(run),
        "--data",
        f"folder:{folder}",
        "--json",
        str(tmp_path / "j"),
    ]
    checked = CliRunner().invoke(main, arguments)
    assert checked.exit_code == 0, checked.output
    checks = {check["name"]: check for check in json.loads((tmp_path / "j").read_text())["checks"]}
    assert checks["accuracy"]["passed"]
