"""Comparisons: every run once, also under two workers; the table follows the runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from aurep import AurepError
from aurep.training.compare import Cell, cell_config, compare
from aurep.training.config import parse_config
from aurep.training.runs import RunBusy, train
from tests.toolkit.training.tiny import RECIPE, tiny_config

SHORT = {"baseline__epochs": 1, "search__epochs": 1, "finetune__epochs": 1}
_WORKER = """
import sys
from pathlib import Path
from rich.console import Console
from aurep.training.compare import compare
from aurep.training.config import parse_config
config = parse_config(Path(sys.argv[1]).read_text())
compare(config, Path(sys.argv[2]), ["autorep"], ["10%", "0"], [0, 1], Console(width=200))
"""


def test_table_and_page_follow_the_runs(tmp_path: Path) -> None:
    rows = compare(tiny_config(**SHORT), tmp_path, ["autorep"], ["10%", "0"], [0, 1])
    assert [(row.budget, row.relu_count) for row in rows] == [("10%", 96), ("0", 0)]
    for row in rows:
        runs = [json.loads((Cell("autorep", row.budget, s).folder(tmp_path) / "run.json").read_text()) for s in (0, 1)]
        assert row.test_accuracy == [run["training"]["test_accuracy"] for run in runs]
        low, high = sorted(row.test_accuracy)
        assert row.mean == pytest.approx((low + high) / 2)
        assert row.spread == pytest.approx((high - low) / 2**0.5)  # sample deviation of two values
    teachers = {(tmp_path / f"{run}/teacher.safetensors").read_bytes() for run in ("autorep-10pct-s0", "autorep-0-s0")}
    assert teachers == {(tmp_path / "baseline-s0/teacher.safetensors").read_bytes()}
    page = (tmp_path / "comparison.html").read_text()
    assert "<svg" in page
    assert "autorep" in page
    before = (tmp_path / "autorep-0-s0/run.json").stat().st_mtime_ns
    assert compare(tiny_config(**SHORT), tmp_path, ["autorep"], ["10%", "0"], [0, 1]) == rows
    assert (tmp_path / "autorep-0-s0/run.json").stat().st_mtime_ns == before


def test_two_workers_share_a_folder_and_run_nothing_twice(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE.replace("epochs = 2", "epochs = 1"))
    command = [sys.executable, "-c", _WORKER, str(recipe), str(tmp_path / "shared")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    printed = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    finetuned = [line for text in printed for line in text.splitlines() if line.startswith("finetune ")]
    assert len(finetuned) == 4  # one epoch for each of the four runs, over both workers together


def test_one_process_to_a_run_folder(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(RunBusy, match="another process"):
        train(tiny_config(**SHORT), tmp_path, resume=True)


def test_folder_of_another_recipe_is_refused(tmp_path: Path) -> None:
    compare(tiny_config(**SHORT), tmp_path, ["autorep"], ["0"], [0])
    with pytest.raises(AurepError, match="another recipe"):
        compare(tiny_config(**SHORT, model__width=8), tmp_path, ["autorep"], ["0"], [0])


def test_unknown_method_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(AurepError, match="magic"):
        compare(tiny_config(), tmp_path / "none", ["autorep", "magic"], ["0"], [0])
    assert not (tmp_path / "none").exists()


def test_a_variant_is_the_recipe_with_its_keys(tmp_path: Path) -> None:
    variants = {"straight lines": ["search.method=random", "search.degree=1"]}
    rows = compare(tiny_config(**SHORT), tmp_path, ["autorep", "straight lines"], ["7"], [0], variants=variants)
    assert [(row.method, row.degree, row.relu_count) for row in rows] == [
        ("autorep", 2, 7),
        ("straight lines", 1, 7),
    ]
    config = parse_config((Cell("straight lines", "7", 0).folder(tmp_path) / "config.toml").read_text())
    assert config.search.method == "random"


def test_a_diverged_run_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    variants = {"steep": ["search.optimizer=sgd", "search.lr=1e30"]}
    for _ in range(2):  # the second time there is nothing left to run
        rows = compare(tiny_config(**SHORT), tmp_path, ["steep", "autorep"], ["7"], [0], variants=variants)
        assert [(row.method, row.seeds, row.diverged) for row in rows] == [("autorep", [0], [])]
        assert "steep-7-s0" in (tmp_path / "comparison.html").read_text()
    assert "search became NaN" in (tmp_path / "steep-7-s0/diverged.txt").read_text()
    assert compare(tiny_config(**SHORT), tmp_path, ["steep"], ["7"], [0], variants=variants) == []
    assert "No run ended" in (tmp_path / "comparison.html").read_text()


def test_workers_may_keep_their_data_in_different_places(tmp_path: Path) -> None:
    rows = compare(tiny_config(**SHORT), tmp_path, ["autorep"], ["0"], [0])
    assert compare(tiny_config(**SHORT, data__dir="elsewhere"), tmp_path, ["autorep"], ["0"], [0]) == rows


def test_options_of_the_recipe_go_to_its_own_method_only() -> None:
    config = tiny_config(search__method="autorep", search__options="{hysteresis = 0.1}")
    cell = Cell("a variant", "7", 0)
    ours = cell_config(config, cell, ["search.options.decay=0.5"])
    assert ours.search.options == {"hysteresis": 0.1, "decay": 0.5}
    assert cell_config(config, cell, ["search.method=snl"]).search.options == {}
    theirs = cell_config(config, cell, ["search.method=saliency", "search.options.decay=0.5"])
    assert theirs.search.options == {"decay": 0.5}
