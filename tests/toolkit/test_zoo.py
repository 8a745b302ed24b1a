"""A run packed for the zoo, exported from there by name, and what happens where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from aurep.cli import main
from aurep.errors import AurepError
from aurep.training import load_run, train
from aurep.zoo import pack, resolve, update_claims
from tests.toolkit.training.tiny import tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_config(baseline__epochs=1, search__epochs=1, finetune__epochs=1, data__dir="'/somebody/s/home'")
    return train(config, tmp_path_factory.mktemp("runs") / "run").run_dir


def test_a_packed_run_exports_and_validates_by_name(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pack(run, tmp_path / "zoo" / "small")
    assert not (tmp_path / "zoo" / "small" / "teacher.safetensors").exists()
    done = CliRunner().invoke(main, ["export", "zoo:small", "-o", "bundle"])
    assert done.exit_code == 0, done.output
    claimed = json.loads((tmp_path / "bundle" / "budget.json").read_text())
    assert claimed["relu_count"] == json.loads((run / "run.json").read_text())["relu_count"]


def test_packing_rounds_weights_and_nothing_else(run: Path, tmp_path: Path) -> None:
    pack(run, tmp_path / "packed")
    before, after = (load_file(folder / "model.safetensors") for folder in (run, tmp_path / "packed"))
    assert after["conv1.weight"].dtype == torch.float16
    for name, tensor in before.items():
        if after[name].dtype == torch.float16:
            assert torch.equal(after[name], tensor.half())
        else:
            assert torch.equal(after[name], tensor)
    exact = [name for name in after if name.endswith((".coefficients", ".mask", ".running_var", "bn1.weight"))]
    assert exact
    assert all(torch.equal(after[name], before[name]) for name in exact)
    assert load_run(tmp_path / "packed").model.conv1.weight.dtype == torch.float32


def test_where_the_data_lay_stays_at_home(run: Path, tmp_path: Path) -> None:
    pack(run, tmp_path / "packed")
    texts = [path.read_text() for path in (tmp_path / "packed").iterdir() if path.suffix in (".toml", ".json", ".csv")]
    assert len(texts) == 4
    assert not any("somebody" in text for text in texts)
    assert load_run(tmp_path / "packed").config.digest() == load_run(run).config.digest()


def test_claims_are_replaced(run: Path, tmp_path: Path) -> None:
    pack(run, tmp_path / "packed")
    update_claims(tmp_path / "packed", test_accuracy=12.5)
    assert load_run(tmp_path / "packed").training.test_accuracy == 12.5


def test_weights_beyond_fp16_are_refused(run: Path, tmp_path: Path) -> None:
    weights = load_file(run / "model.safetensors")
    weights["fc.weight"][0, 0] = 1e6
    copy = tmp_path / "run"
    copy.mkdir()
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(AurepError, match=r"fc\.weight.*fp16"):
        pack(copy, tmp_path / "packed")


def test_an_absent_name_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AurepError, match=r"there is no zoo:nothing"):
        resolve("zoo:nothing")
    done = CliRunner().invoke(main, ["export", "zoo:nothing", "-o", "bundle"])
    assert done.exit_code == 2
    assert done.output.startswith("aurep: there is no zoo:nothing")
