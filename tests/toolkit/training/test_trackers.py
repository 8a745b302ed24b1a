"""Experiment trackers for real: TensorBoard's event files and MLflow's file store read back by their own libraries, and
what Weights & Biases writes without a network, by the few lines that it takes."""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aurep
from aurep.training.compare import compare
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


def records(file: Path) -> Iterator[bytes]:
    """Of a log in LevelDB's form, after 7 bytes of wandb's own: blocks of 32 KiB, and in them, never across their ends,
    records of a checksum (4 bytes), length (2), part (1: whole; 2, 3, 4: first, middle, last) and data."""
    log, at, whole = file.read_bytes(), 7, b""
    while at < len(log):
        if 32768 - at % 32768 < 7:  # too little for a record's head
            at += 32768 - at % 32768
            continue
        length, part = int.from_bytes(log[at + 4 : at + 6], "little"), log[at + 6]
        whole += log[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):
            yield whole
            whole = b""


def wandb(run: Path) -> tuple[list[Any], dict[str, list[tuple[int, float]]]]:
    """What is in a run folder: wandb's runs in the order they were begun, and values by name with their steps."""
    from wandb.proto.wandb_internal_pb2 import Record

    begun, values = [], defaultdict(list)
    for file in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        for data in records(file):
            record = Record.FromString(data)
            if record.HasField("run"):
                begun.append(record.run)
            if record.HasField("history"):
                items = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
                step = int(items.pop("_step"))
                for name, value in items.items():
                    values[name].append((step, json.loads(value)))
    return begun, values


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed (extra wandb)")
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture
def stop_in_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run is stopped as if by a signal after its first epoch of the search."""
    from aurep.training.trackers import Trackers

    epoch = Trackers.epoch

    def epoch_and_stop(self: Trackers, rows: Any) -> None:
        epoch(self, rows)
        if rows[-1]["phase"] == "search" and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            raise Stopped(15)

    monkeypatch.setattr(Trackers, "epoch", epoch_and_stop)


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


@pytest.mark.usefixtures("stop_in_the_search")
def test_a_resumed_run_goes_on_as_the_same_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed (extra mlflow)")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    config = tiny_config(train__log="['mlflow']")
    with pytest.raises(Stopped):
        aurep.train(config, tmp_path / "run")
    assert mlflow(tmp_path)[1].info.status == "KILLED"
    aurep.train(config, tmp_path / "run", resume=True)
    client, run = mlflow(tmp_path)  # one run, not two
    assert run.info.status == "FINISHED"
    steps = {point.step for point in client.get_metric_history(run.info.run_id, "search/train_loss")}
    assert steps == {3, 4}


@pytest.mark.usefixtures("offline", "stop_in_the_search")
def test_wandb_has_parameters_epochs_and_results_also_of_a_run_that_was_stopped(tmp_path: Path) -> None:
    config, out = tiny_config(train__log="['wandb']"), tmp_path / "run"
    with pytest.raises(Stopped):
        aurep.train(config, out)
    result = aurep.train(config, out, resume=True)
    begun, found = wandb(out)
    rows = rows_of(out)
    assert len({run.run_id for run in begun}) == 1
    assert [(run.display_name, run.project) for run in begun] == [("run", "aurep")] * 2
    told = {item.key: json.loads(item.value_json) for item in begun[0].config.update}
    assert told["search"]["budget"] == "10%"
    for phase in ("baseline", "search", "finetune"):
        mine = [(number, row) for number, row in enumerate(rows, 1) if row["phase"] == phase]
        for name in ("train_loss", "val_accuracy"):
            told_once = sorted(set(found[f"{phase}/{name}"]))  # the epoch before the stop came again, bit for bit
            assert told_once == [(number, pytest.approx(float(row[name]))) for number, row in mine]
    for site in result.sites:
        assert found[f"finetune/kept/{site.name}"][-1] == (len(rows), site.kept)
        assert found[f"finetune/largest_input/{site.name}"][-1][1] > 0
    ended = {name: values for name, values in found.items() if name.startswith("result/")}
    assert ended["result/relu_count"] == [(len(rows), result.relu_count)]
    assert ended["result/test_accuracy"] == [(len(rows), pytest.approx(result.test_accuracy))]


@pytest.mark.usefixtures("offline")
def test_runs_of_one_process_are_runs_of_their_own(tmp_path: Path) -> None:
    """wandb hands out an open run again: a comparison's teacher was not closed, and got its cells' numbers."""
    config = tiny_config(train__log="['wandb']", baseline__epochs=1, search__epochs=1, finetune__epochs=1)
    compare(config, tmp_path, ["random"], ["10%", "0"], [0])
    names = ["baseline-s0", "random-10pct-s0", "random-0-s0"]
    assert [[run.display_name for run in wandb(tmp_path / name)[0]] for name in names] == [[name] for name in names]
    assert len({(tmp_path / name / "wandb.run").read_text() for name in names}) == 3


def test_a_tracker_that_refuses_says_so_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed (extra mlflow)")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    with pytest.raises(aurep.AurepError, match=r"train.log names mlflow, which refuses: .*nonsense"):
        aurep.train(tiny_config(train__log="['mlflow']"), tmp_path / "run")


def test_a_tracker_that_is_not_installed_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(aurep.AurepError, match=r'pip install "aurep\[wandb\]"'):
        aurep.train(tiny_config(train__log="['wandb']"), tmp_path / "run")
