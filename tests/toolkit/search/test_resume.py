"""A search by any method that SIGTERM stops within an epoch, once resumed, ends bit for bit as one left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

import aurep
from aurep.search import POLICIES
from aurep.training.config import Config, parse_config
from tests.toolkit.training.stopping import stopped_at

RECIPE = """
model = {name = "resnet9", width = 4}
data = {name = "digits", pad = 1, flip = false}
train = {batch_size = 128, device = "cpu"}
baseline = {epochs = 1}
search = {epochs = 2, calibration = 128, budget = 77}
finetune = {epochs = 0}
"""
OPTIONS = {
    "autorep": "alpha_lr = 0.01",
    "snl": "growth_from = 0, growth = 1.2",
    "senet": "part_steps = 3",
    "layerwise": "scoring = 0.9",
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "teacher"
    aurep.train(parse_config(RECIPE, "test", ["search.epochs=0"]), out)
    return out


def config(method: str, teacher: Path) -> Config:
    options = f"search.options={{{OPTIONS.get(method, '')}}}"
    return parse_config(RECIPE, "test", [f"baseline.checkpoint='{teacher}'", f"search.method={method}", options])


@pytest.mark.parametrize("method", list(POLICIES))
def test_resumed_search_ends_as_an_uninterrupted_one(method: str, teacher: Path, tmp_path: Path) -> None:
    aurep.train(config(method, teacher), tmp_path / "whole")
    with stopped_at(("search", 1, 5)):
        aurep.train(config(method, teacher), tmp_path / "run")
    aurep.train(config(method, teacher), tmp_path / "run", resume=True)
    for name in ("model.safetensors", "last.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
