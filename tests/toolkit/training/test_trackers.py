"""Experiment trackers for real: TensorBoard's event files and MLflow's file store read back by their own libraries."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest

import aurep
from aurep.training.signals import Stopped
from tests.toolkit.training.tiny import tiny_config

SITE = "layer1.0.relu1"


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def tensorboard(run: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def mlflow(folder: Path) -> tuple[Any, Any]:
    from mlflow import MlflowClient

    client = MlflowClient()
    (experiment,) = [e for e in client.search_experiments() if e.name == "aurep"]
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def test_tensorboard_has_every_epoch_and_the_results(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (extra tensorboard)")
    result = aurep.train(tiny_config(train__log="['csv', 'tensorboard']"), tmp_path / "run")
    found, rows = tensorboard(tmp_path / "run"), rows_of(tmp_path / "run")
    search = [(number, row) for number, row in enumerate(rows, 1) if row["phase"] == "search"]
    for name in ("train_loss", "val_accuracy", "relu_count"):
        wanted = [(number, pytest.approx(float(row[name]), rel=1e-5)) for number, row in search]  # fp32 on disk
        assert found[f"search/{name}"] == wanted
    (site,) = [site for site in result.sites if site.name == SITE]
    assert found[f"finetune/kept/{SITE}"][-1][1] == site.kept
    assert found[f"finetune/largest_input/{SITE}"][-1][1] > 0
    assert found["result/test_accuracy"] == [(len(rows), pytest.approx(result.test_accuracy, rel=1e-5))]


def test_mlflow_has_parameters_epochs_and_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed (extra mlflow)")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    result = aurep.train(tiny_config(train__log="['mlflow']"), tmp_path / "run")
    client, run = mlflow(tmp_path)
    rows = rows_of(tmp_path / "run")
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert run.data.params["model.name"] == "resnet9"
    assert run.data.params["search.budget"] == "10%"
    history = client.get_metric_history(run.info.run_id, "finetune/val_accuracy")
    wanted = [float(row["val_accuracy"]) for row in rows if row["phase"] == "finetune"]
    assert [point.value for point in history] == pytest.approx(wanted)
    assert run.data.metrics["result/relu_count"] == result.relu_count


def test_a_resumed_run_goes_on_as_the_same_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed (extra mlflow)")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    config = tiny_config(train__log="['mlflow']")
    from aurep.training.trackers import Trackers

    epoch = Trackers.epoch

    def stop_after_the_search(self: Trackers, rows: Any) -> None:
        epoch(self, rows)
        if rows[-1]["phase"] == "search" and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            raise Stopped(15)

    monkeypatch.setattr(Trackers, "epoch", stop_after_the_search)
    with pytest.raises(Stopped):
        aurep.train(config, tmp_path / "run")
    aurep.train(config, tmp_path / "run", resume=True)
    client, run = mlflow(tmp_path)  # one run, not two
    steps = {point.step for point in client.get_metric_history(run.info.run_id, "search/train_loss")}
    assert steps == {3, 4}


def test_a_tracker_that_is_not_installed_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(aurep.AurepError, match=r'pip install "aurep\[wandb\]"'):
        aurep.train(tiny_config(train__log="['wandb']"), tmp_path / "run")
