"""A run packed for the zoo and used from there by name, and what happens where there is none."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from aurep.cli import main
from aurep.costs import RunCosts
from aurep.data import load_data
from aurep.errors import AurepError
from aurep.surgery import hybrid_sites
from aurep.training import Run, load_run, train
from aurep.validators import validate
from aurep.validators.report import Check, Report
from aurep.zoo import costs_of, entries, resolve
from aurep.zoo.packing import add
from tests.toolkit.training.tiny import tiny_config

SHORT = {"baseline__epochs": 1, "search__epochs": 1, "finetune__epochs": 3}  # one leaves ranges


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_config(**SHORT, data__dir="'/somebody/s/home'")
    return train(config, tmp_path_factory.mktemp("runs") / "run").run_dir


@pytest.fixture(scope="module")
def all_relu(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The teacher of `run` as a run of its own."""
    config = tiny_config(**SHORT | {"search__epochs": 0, "finetune__epochs": 0}, baseline__checkpoint=f"'{run}'")
    config = config.model_copy(update={"search": config.search.model_copy(update={"budget": "100%"})})
    return train(config, tmp_path_factory.mktemp("runs") / "all").run_dir


@pytest.fixture(scope="module")
def packed(run: Path, all_relu: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo of two: `run` as small, its teacher as whole."""
    zoo = tmp_path_factory.mktemp("packed") / "zoo"
    add(run, zoo / "small")
    add(all_relu, zoo / "whole")
    return zoo


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments: str) -> str:
    done = CliRunner().invoke(main, [*arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_commands_take_an_entry_by_name(run: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "zoo/small: " in invoke("zoo", "add", str(run), "small")
    claimed = json.loads((run / "run.json").read_text())
    listed = next(line for line in invoke("zoo").splitlines() if line.startswith("small "))
    assert f"{claimed['relu_count']:,} of {claimed['relu_total']:,}" in listed
    for cost in RunCosts()(run):
        assert f"{cost['bytes'] / 1e6:,.1f} MB" in listed
    invoke("export", "zoo:small", "-o", "bundle")
    assert json.loads((home / "bundle" / "budget.json").read_text())["relu_count"] == claimed["relu_count"]
    invoke("validate", "zoo:small", "--json", "report.json")
    report = json.loads((home / "report.json").read_text())
    checked = {check["name"]: check for check in report["checks"]}
    assert checked["sites"]["passed"]  # against the entry's own weights
    reached = load_run(resolve("small")).result.test_accuracy
    assert checked["accuracy"]["measured"] == pytest.approx(reached, abs=1e-9)  # a share times 100, in another order
    assert report["file"] == "zoo:small"
    pushed: list[bool] = []
    monkeypatch.setattr("aurep.sharing.push", lambda bundle, *_, **__: pushed.append((bundle / "model.onnx").is_file()))
    invoke("push", "zoo:small", "hf:ours/small", "--no-validate")
    assert pushed == [True]


def test_an_entry_claims_what_its_rounded_weights_reach(packed: Path) -> None:
    entry = load_run(packed / "small")
    claimed = entry.training
    data = load_data("digits", val_fraction=entry.config.data.val_fraction, input_size=entry.result.input.shape[1:])
    for split, reached in (("val", claimed.val_accuracy), ("test", claimed.test_accuracy)):
        pixels, labels = getattr(data, f"x_{split}"), getattr(data, f"y_{split}")
        images = (torch.as_tensor(np.asarray(pixels)).float() / 255 - entry.result.input.mean[0]) / (
            entry.result.input.std[0]
        )
        with torch.no_grad():
            right = entry.model(images).argmax(1).numpy() == labels
        assert reached == pytest.approx(100 * right.mean(), abs=1e-9)


def test_accuracies_are_measured_on_the_data_of_the_run_unless_another_folder_is_named(
    run: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []

    def loading(name: str, directory: object, **options: object) -> object:
        looked.append(directory)
        return load_data(name, directory, **options)

    monkeypatch.setattr("aurep.training.reading.load_data", loading)
    monkeypatch.setattr("aurep.zoo.packing._try", lambda *_: None)
    add(run, home / "one")
    add(run, home / "other", home)
    assert looked == ["/somebody/s/home", str(home)]


@pytest.mark.parametrize("present", [True, False])
def test_what_does_not_validate_does_not_enter_the_zoo(
    present: bool, run: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried with the data set and without it."""

    def doubtful(bundle: Path, **options: Any) -> Report:
        report = validate(bundle, **options)
        tried = options["data"] is not None
        check = Check("range", "3 % beyond", "0", passed=tried != present)
        return replace(report, checks=(*report.checks, check))

    monkeypatch.setattr("aurep.zoo.packing.validate", doubtful)
    where = "exported" if present else "exported without its data set"
    with pytest.raises(AurepError, match=rf"zoo:small would not be .*{where}, it fails .*range: 3 % beyond, allowed 0"):
        add(run, home / "zoo" / "small")
    assert list((home / "zoo").iterdir()) == []


def test_an_entry_holds_neither_images_nor_teacher_nor_anybody_s_folders(run: Path, packed: Path) -> None:
    for entry in packed.iterdir():
        texts = {"README.md", "budget.json", "config.toml", "costs.json", "metrics.csv", "run.json"}
        assert {file.name for file in entry.iterdir()} == texts | {"model.safetensors"}
        for name in texts:
            assert "somebody" not in (entry / name).read_text()
            assert str(run.parent) not in (entry / name).read_text()
        assert load_run(entry).config.digest() == load_run(entry).training.config_sha256


def test_packing_rounds_weights_and_nothing_else(run: Path, packed: Path) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (run, packed / "small"))
    assert after["conv1.weight"].dtype == torch.float16
    left_out = {name for name in before if name.endswith(".alpha")}
    assert left_out
    assert after.keys() == before.keys() - left_out
    for name in after:
        tensor = before[name]
        if after[name].dtype == torch.float16:
            assert torch.equal(after[name], tensor.half())
        else:
            assert torch.equal(after[name], tensor)
    exact = [name for name in after if name.endswith((".coefficients", ".mask", ".running_var", "bn1.weight"))]
    assert exact
    assert all(torch.equal(after[name], before[name]) for name in exact)
    assert load_run(packed / "small").model.conv1.weight.dtype == torch.float32


def test_an_entry_that_keeps_all_relus_is_a_teacher_and_another_is_none(packed: Path, home: Path) -> None:
    shutil.copytree(packed, home / "zoo")
    config = home / "config.toml"
    config.write_text(tiny_config(**SHORT).to_toml())
    invoke("train", str(config), "--teacher", "zoo:whole", "--out", "taught")
    whole = load_run(resolve("whole"))
    taught = load_run(home / "taught")
    assert taught.result.teacher_test_accuracy == whole.result.test_accuracy
    weights = taught.teacher.state_dict()
    assert weights
    assert all(torch.equal(weights[name], whole.model.state_dict()[name]) for name in weights)
    done = CliRunner().invoke(main, ["train", str(config), "--teacher", "zoo:small", "--out", "not"])
    assert done.exit_code == 2
    assert "holds no teacher, and its own network keeps" in done.output


def test_without_the_data_a_bundle_has_drawn_samples_and_no_certificate(
    run: Path, packed: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(packed, home / "zoo")
    monkeypatch.setattr("aurep.training.reading.load_data", _absent)
    invoke("export", "zoo:small", "-o", "bundle", "--no-validate")
    assert json.loads((home / "bundle" / "budget.json").read_text())["ranges"] is None
    with np.load(home / "bundle" / "samples.npz") as samples:
        assert samples["inputs"].shape[1:] == load_run(run).result.input.shape
        assert len(samples["inputs"]) == len(samples["logits"]) > 1
        assert samples["labels"].shape == (0,)


def test_drawn_samples_are_such_that_the_network_does_not_overflow(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aurep.training.reading.load_data", _absent)
    first = load_run(packed / "small").samples(8)[0]
    bright = first.mean(axis=(1, 2, 3))
    limit = float(np.median(bright))

    def bounded(run: Run, images: np.ndarray) -> np.ndarray:
        logits = run.model(torch.from_numpy(images)).detach().numpy()
        return np.where(images.mean(axis=(1, 2, 3))[:, None] > limit, np.inf, logits)

    monkeypatch.setattr(Run, "_logits", bounded)
    images, labels = load_run(packed / "small").samples(8)
    drawn = load_run(packed / "small").samples(8)[0]
    assert images.shape[0] == 8
    assert labels.shape == (0,)
    assert images.mean(axis=(1, 2, 3)).max() <= limit
    assert np.array_equal(images[:4], first[bright <= limit])
    assert np.array_equal(images, drawn), "each export of a run has the same"
    limit = -9.0
    with pytest.raises(AurepError, match=r"only 0 of 32 images .* --data-dir"):
        load_run(packed / "small").samples(8)


def _absent(*_: object, **__: object) -> None:
    raise AurepError("the data set is not here.")


def test_weights_beyond_fp16_are_refused_and_leave_nothing(run: Path, home: Path) -> None:
    copy = home / "run"
    copy.mkdir()
    for file in run.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = load_file(run / "model.safetensors")
    weights["fc.weight"][0, 0] = 1e6
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(AurepError, match=r"fc\.weight.*fp16"):
        add(copy, home / "zoo" / "small")
    assert list((home / "zoo").iterdir()) == []
    assert "small" not in entries()


def test_an_entry_is_never_overwritten(run: Path, packed: Path, home: Path) -> None:
    shutil.copytree(packed, home / "zoo")
    with pytest.raises(AurepError, match="exists; take another name"):
        add(run, home / "zoo" / "small")
    done = CliRunner().invoke(main, ["zoo", "add", str(run), "../small"])
    assert done.exit_code == 2
    assert "leave slashes out" in done.output


CLONE = Path(__file__).parents[2] / "zoo"


@pytest.mark.parametrize("entry", sorted(CLONE.iterdir()), ids=lambda entry: entry.name)
def test_what_a_clone_brings_along_is_what_it_says(entry: Path) -> None:
    run = load_run(entry)
    masks = [site.mask for site in hybrid_sites(run.model)]
    kept = sum(int(mask.sum()) for mask in masks)
    assert kept == run.result.relu_count <= run.result.relu_budget
    assert sum(mask.numel() for mask in masks) == run.result.relu_total
    card = (entry / "README.md").read_text()
    assert f"**{run.result.test_accuracy:.2f} %**" in card
    assert f"{kept:,} of {run.result.relu_total:,} ReLU elements" in card
    assert costs_of(entry).keys() == {"crypten Beaver", "spu SEMI2K", "spu ABY3"}
    with torch.no_grad():
        logits = run.model(torch.zeros(1, *run.result.input.shape))
    assert logits.shape == (1, len(run.result.classes))
    assert bool(torch.isfinite(logits).all())


def test_a_network_of_the_clone_validates_without_its_data_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aurep.training.reading.load_data", _absent)
    invoke("validate", "zoo:cifar100-resnet32-0", "--json", "report.json")
    report = json.loads((home / "report.json").read_text())
    assert {check["name"] for check in report["checks"]} == {"structure", "relu-count", "sites", "parity"}


def test_an_absent_name_is_one_sentence(home: Path) -> None:
    with pytest.raises(AurepError, match=r"there is no zoo:nothing"):
        resolve("zoo:nothing")
    for arguments in (("export", "zoo:nothing", "-o", "bundle"), ("validate", "zoo:nothing")):
        done = CliRunner().invoke(main, [*arguments])
        assert done.exit_code == 2
        assert done.output.startswith("aurep: there is no zoo:nothing")
