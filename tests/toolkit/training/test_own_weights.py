"""A teacher that the user brings along: every form it comes in, what does not fit, and what classifies by chance."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn

import aurep
from aurep.cli import main
from aurep.models import build_model
from aurep.training.own_weights import read_teacher, resolved
from tests.needs import needs_timm
from tests.toolkit.training.tiny import tiny_config


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose teacher knows its digits."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    aurep.train(tiny_config(baseline__epochs=4, search__epochs=0, finetune__epochs=0), out)
    return out


def network() -> nn.Module:
    return build_model("resnet9", num_classes=10, in_channels=1, width=4, input_size=8)


def state(teacher: Path) -> dict[str, Any]:
    return load_file(teacher / "teacher.safetensors")


FORMS = {
    "plain": lambda weights: weights,
    "DataParallel": lambda weights: {f"module.{name}": value for name, value in weights.items()},
    "Lightning": lambda weights: {"epoch": 3, "state_dict": {f"model.{name}": v for name, v in weights.items()}},
    "compiled, wrapped twice": lambda weights: {f"module._orig_mod.{name}": value for name, value in weights.items()},
    "half precision": lambda weights: {n: v.half() if v.is_floating_point() else v for n, v in weights.items()},
    "without counters": lambda weights: {n: v for n, v in weights.items() if not n.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_state_dict_is_read_in_the_forms_it_comes_in(form: str, teacher: Path, tmp_path: Path) -> None:
    weights = state(teacher)
    torch.save(FORMS[form](weights), tmp_path / "weights.pt")
    found = read_teacher(str(tmp_path / "weights.pt"), network())
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        wanted = value.half().float() if form == "half precision" and value.is_floating_point() else value
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(found[name], wanted, rtol=0, atol=0)


def test_a_run_starts_from_it_and_shows_its_accuracy_first(teacher: Path, tmp_path: Path) -> None:
    save_file(state(teacher), tmp_path / "own.safetensors")
    said = io.StringIO()
    config = tiny_config(baseline__checkpoint=f"'{tmp_path / 'own.safetensors'}'", search__epochs=1)
    result = aurep.train(config, tmp_path / "run", console=Console(file=said, width=200))
    lines = said.getvalue().splitlines()
    shown = next(line for line in lines if line.startswith("teacher "))
    assert f"{result.teacher_val_accuracy:.2f} % of the validation images" in shown
    assert f"{result.teacher_test_accuracy:.2f} % of the test images right" in shown
    assert lines.index(shown) < min(number for number, line in enumerate(lines) if "search" in line)
    assert not any("baseline" in line for line in lines)


def test_what_does_not_fit_is_listed_as_a_diff(teacher: Path, tmp_path: Path) -> None:
    weights = state(teacher)
    weights["fc.weight"] = torch.zeros(7, weights["fc.weight"].shape[1])
    weights["head.weight"] = weights.pop("conv1.weight")
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(aurep.AurepError) as refusal:
        aurep.train(tiny_config(baseline__checkpoint=f"'{tmp_path / 'other.safetensors'}'"), tmp_path / "run")
    lines = str(refusal.value).splitlines()
    assert "3 of its weights differ" in lines[0]
    assert "  - conv1.weight (4, 1, 3, 3)" in lines
    assert "  + head.weight (4, 1, 3, 3)" in lines
    assert "  ~ fc.weight (7, 32), the model has (10, 32)" in lines
    assert not (tmp_path / "run").exists()


def test_a_teacher_at_chance_is_refused_with_the_likely_causes(teacher: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(network().state_dict(), tmp_path / "fresh.safetensors")
    arguments = ["--data", "digits", "--set", "model.width=4", "--out", str(tmp_path / "run"), "--device", "cpu"]
    outcome = CliRunner().invoke(main, ["train", *arguments, "--teacher", str(tmp_path / "fresh.safetensors")])
    assert outcome.exit_code == 2
    assert "normalised by another mean" in outcome.output
    assert "classes in another order" in outcome.output


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"no weights", "no file of plain weights"), (None, "does not exist")],
    ids=["garbage", "missing"],
)
def test_a_file_that_holds_no_weights_is_named(content: bytes | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(aurep.AurepError, match=sentence):
        read_teacher(str(path), network())


def test_a_pickle_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "whole.pt")  # a whole module: code, not weights
    with pytest.raises(aurep.AurepError, match=r"torch\.save\(model\.state_dict\(\), FILE\)"):
        read_teacher(str(tmp_path / "whole.pt"), network())


@needs_timm
def test_timm_loads_a_file_as_it_loads_its_own_weights(tmp_path: Path) -> None:
    """No hub here: the same call of timm's, told to read a file."""
    model = build_model(
        "timm:resnet18", num_classes=1000, in_channels=3
    )  # timm's own weights are of ImageNet's classes
    save_file(model.state_dict(), tmp_path / "timm.safetensors")
    fresh = build_model("timm:resnet18", num_classes=1000)
    found = read_teacher(f"timm:resnet18@{tmp_path / 'timm.safetensors'}", fresh)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


@needs_timm
def test_timm_weights_bring_their_preprocessing_but_what_the_user_set_stays() -> None:
    config = tiny_config(model__name="'timm:efficientnet_b2'", model__pretrained="true", data__std="[0.5, 0.5, 0.5]")
    found = resolved(config)
    assert found.baseline.checkpoint == "timm:efficientnet_b2"
    assert found.data.mean == (0.485, 0.456, 0.406)  # ImageNet's, as timm's configuration of this model has it
    assert found.data.std == (0.5, 0.5, 0.5)
    assert found.data.interpolation == "bicubic"


def test_pretrained_is_for_models_of_timm() -> None:
    with pytest.raises(aurep.AurepError, match="none of timm's models"):
        resolved(tiny_config(model__pretrained="true"))
