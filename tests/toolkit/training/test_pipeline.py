"""Whole runs on digits: what they leave behind, and that the budget is exact."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import aurep
from aurep.data import load_data
from aurep.results import read_result
from aurep.training import load_run
from tests.toolkit.training.tiny import tiny_config

TOTAL = 960  # ResNet-9 of width 4 on 8x8: 2 (4 * 64 + 8 * 16 + 16 * 4 + 32 * 1)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    result = aurep.train(tiny_config(), out)
    assert (result.relu_count, result.relu_budget, result.relu_total) == (96, 96, TOTAL)
    return out


def test_run_folder_holds_what_the_design_promises(run_dir: Path) -> None:
    names = {p.name for p in run_dir.iterdir()} - {".lock"}
    assert names == {
        "budget.json",
        "config.toml",
        "last.safetensors",
        "last.state",
        "metrics.csv",
        "model.safetensors",
        "report.html",
        "run.json",
        "samples.npz",
        "teacher.safetensors",
    }


def test_a_run_says_which_activations_it_takes_over(tmp_path: Path) -> None:
    said = io.StringIO()
    nothing = {"baseline__epochs": 0, "search__epochs": 0, "finetune__epochs": 0}
    config = tiny_config(**nothing)
    assert config.model.replace == "auto"
    aurep.train(config, tmp_path / "run", console=Console(file=said))
    assert "sites: 8 relu\n" in said.getvalue()


def test_metrics_have_a_row_per_epoch(run_dir: Path) -> None:
    with (run_dir / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["phase"], r["epoch"]) for r in rows] == [
        (phase, str(epoch)) for phase in ("baseline", "search", "finetune") for epoch in (1, 2)
    ]
    assert [r["relu_count"] for r in rows[-2:]] == ["96", "96"]


def test_run_json_counts_and_claims(run_dir: Path) -> None:
    facts = json.loads((run_dir / "run.json").read_text())
    assert facts["relu_count"] == sum(site["kept"] for site in facts["sites"]) == 96
    assert facts["training"]["method"] == "autorep"
    assert facts["classes"] == list("0123456789")
    assert str(run_dir) not in (run_dir / "run.json").read_text()  # a folder may be moved
    counts = {key: facts[key] for key in ("relu_budget", "relu_count", "relu_total", "sites")}
    assert json.loads((run_dir / "budget.json").read_text()) == counts


def test_run_folder_of_the_version_before_is_read(run_dir: Path, tmp_path: Path) -> None:
    """Its budget.json held what run.json does now."""
    old = shutil.copytree(run_dir, tmp_path / "old")
    (old / "run.json").replace(old / "budget.json")
    text = (old / "config.toml").read_text()
    assert text.count("pad = 1") == text.count("width_multipliers = ") == 1
    older = {
        "pad = ": "crop = ",
        "width_multipliers = ": "widths = ",
        "[search]\n": "[search]\nrefits = 0\n",
        "[finetune]\n": "[finetune]\nrunning_by = 0.7\n",
    }
    for now, then in older.items():
        text = text.replace(now, then)
    (old / "config.toml").write_text(text)
    assert load_run(old).config == load_run(run_dir).config
    assert aurep.train(tiny_config(), old, resume=True) == read_result(run_dir).model_copy(update={"run_dir": old})


def test_counts_alone_are_no_finished_run(run_dir: Path, tmp_path: Path) -> None:
    """Killed between the two files."""
    killed = shutil.copytree(run_dir, tmp_path / "killed")
    (killed / "run.json").unlink()
    with pytest.raises(aurep.AurepError, match="has not finished"):
        load_run(killed)
    aurep.train(tiny_config(), killed, resume=True)
    assert (killed / "model.safetensors").read_bytes() == (run_dir / "model.safetensors").read_bytes()


DAMAGED = {"not JSON": "{", "not a table": "[]", "nothing in it": "{}", "sites": '{"sites": 3}'}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_result_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(aurep.AurepError, match=r"run\.json is"):
        read_result(tmp_path)


def test_loaded_run_measures_the_accuracy_it_claims(run_dir: Path) -> None:
    run = load_run(run_dir)
    data = load_data("digits")
    with torch.no_grad():
        for model, claimed in (
            (run.model, run.training.test_accuracy),
            (run.teacher, run.training.teacher_test_accuracy),
        ):
            hits = model(torch.from_numpy(data.normalise(data.x_test))).argmax(1).numpy() == data.y_test
            assert claimed == pytest.approx(100 * hits.mean())
    inputs, labels = run.samples(10)
    np.testing.assert_array_equal(labels, data.y_test[:10])
    np.testing.assert_allclose(inputs, data.normalise(data.x_test[:10]), rtol=1e-6)  # one fp32 rounding of mean and std


def test_teacher_and_student_differ_only_where_they_should(run_dir: Path) -> None:
    run = load_run(run_dir)
    kept = {site.name: site.kept for site in aurep.relu_sites(run.model)}
    assert kept == {site.name: site.kept for site in run.result.sites}


def test_report_is_one_offline_page(run_dir: Path) -> None:
    html = (run_dir / "report.html").read_text()
    assert "<svg" in html
    assert "96 of 960" in html
    assert "http" not in html.replace("http://www.w3.org", "")


@pytest.mark.parametrize(("budget", "count"), [("0", 0), ("7", 7), ("100%", TOTAL)], ids=["none", "seven", "all"])
def test_budget_is_met_exactly(budget: str, count: int, tmp_path: Path) -> None:
    config = tiny_config(search__budget=f"'{budget}'", baseline__epochs=1, search__epochs=1, finetune__epochs=1)
    assert aurep.train(config, tmp_path / "run").relu_count == count


def test_same_seed_same_weights(tmp_path: Path, run_dir: Path) -> None:
    aurep.train(tiny_config(), tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (run_dir / "model.safetensors").read_bytes()


def test_no_validation_split_ends_with_the_last_epoch(tmp_path: Path) -> None:
    result = aurep.train(tiny_config(data__val_fraction=0, baseline__epochs=1), tmp_path / "run")
    assert result.val_accuracy is None
    assert result.test_accuracy > 20  # ten classes: chance is 10


def test_baseline_checkpoint_of_another_run_is_taken(tmp_path: Path, run_dir: Path) -> None:
    result = aurep.train(tiny_config(baseline__checkpoint=f"'{run_dir}'", search__epochs=1), tmp_path / "run")
    assert (tmp_path / "run/teacher.safetensors").read_bytes() == (run_dir / "teacher.safetensors").read_bytes()
    assert result.relu_count == 96


BAD = {
    "above the total": ({"search__budget": 961}, r"search\.budget.*960"),
    "negative": ({"search__budget": -1}, r"search\.budget.*negative"),
    "not a number": ({"search__budget": "'some'"}, "not a number"),
    "unknown method": ({"search__method": "magic"}, "autorep"),
    "unknown option": ({"search__options": "{lamda = 3}"}, "search.options.lamda"),
    "batch too large": ({"train__batch_size": 100000}, r"batch size 100000.*train\.batch_size"),
    "unknown model": ({"model__name": "lenet"}, "lenet"),
    "unknown data": ({"data__name": "imagenot"}, "imagenot"),
    "missing checkpoint": ({"baseline__checkpoint": "nowhere.safetensors"}, "nowhere.safetensors"),
}


@pytest.mark.parametrize(("overrides", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_fails_before_training(overrides: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(aurep.AurepError, match=message):
        aurep.train(tiny_config(**overrides), tmp_path / "run")
    assert not (tmp_path / "run/metrics.csv").exists()


def test_diverging_loss_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(aurep.AurepError, match=r"baseline.*NaN or infinite.*baseline\.lr"):
        aurep.train(tiny_config(baseline__lr=1e30, baseline__optimizer="sgd"), tmp_path / "run")


def test_folder_in_use_is_never_overwritten(tmp_path: Path, run_dir: Path) -> None:
    with pytest.raises(aurep.AurepError, match="finished run"):
        aurep.train(tiny_config(), run_dir)
    assert aurep.train(tiny_config(), run_dir, resume=True).relu_count == 96  # finished: read back, not run again
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(aurep.AurepError, match="in use"):
        aurep.train(tiny_config(), tmp_path)


def test_final_model_is_the_best_epoch_on_the_validation_split(tmp_path: Path) -> None:
    """A late epoch at a rate that ruins the weights must not be what the run ends with."""
    config = tiny_config(
        baseline__epochs=4, baseline__warmup=0.9, baseline__lr=3.0, search__epochs=0, finetune__epochs=0
    )
    result = aurep.train(config, tmp_path / "run")
    with (tmp_path / "run/metrics.csv").open(newline="") as stream:
        val = [float(row["val_accuracy"]) for row in csv.DictReader(stream)]
    assert max(val) > val[-1]
    assert result.teacher_val_accuracy == pytest.approx(max(val))
