"""Comparisons on a Slurm cluster for real: `tests/one_node_slurm.sh` starts one of this machine alone."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread

import pytest

from aurep import AurepError
from aurep.results import ComparisonRow
from aurep.training.cells import Cell, cell_config
from aurep.training.cluster import Cluster
from aurep.training.cluster_options import ClusterOptions
from aurep.training.compare import compare
from aurep.training.runs import train
from tests.toolkit.training.tiny import tiny_config

pytest.importorskip("submitit", reason="submitit is not installed (extra slurm)")


def only_this_machine() -> bool:
    """Another node may not see this one's temporary folders."""
    try:
        said = subprocess.run(["sinfo", "--noheader", "--format=%n"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return said.stdout.split() == [socket.gethostname().split(".")[0]]


needs_slurm = pytest.mark.skipif(
    not only_this_machine(),
    reason="no Slurm of this machine alone answers (tests/one_node_slurm.sh starts one)",
)
pytestmark = [needs_slurm, pytest.mark.usefixtures("one_thread")]
CLUSTER = Cluster(ClusterOptions(gpus=0, cpus=1, time=30))


def wait_for(happened: Callable[[], bool]) -> None:
    """Ten minutes at most: on a machine with other work a job takes tens of seconds to import torch."""
    end = time.monotonic() + 600
    while not happened():
        assert time.monotonic() < end, subprocess.run(["squeue"], capture_output=True, text=True).stdout
        time.sleep(0.1)


def is_searching(metrics: Path) -> bool:
    return metrics.exists() and "search" in metrics.read_text()


def test_requeued_elements_of_an_array_end_where_they_would_have(tmp_path: Path) -> None:
    """One is preempted, and one warned as Slurm warns a job whose time ends; both are trained as if neither were."""
    recipe = tiny_config(baseline__epochs=1, search__epochs=4, finetune__epochs=8, train__precision="fp32")
    budgets, root = ["10%", "0"], tmp_path / "compared"
    preempted, warned = (Cell("random", budget, 0) for budget in budgets)
    rows: list[ComparisonRow] = []
    launcher = Thread(target=lambda: rows.extend(compare(recipe, root, ["random"], budgets, [0], launcher=CLUSTER)))
    launcher.start()
    for cell, command in ((preempted, ["scontrol", "requeue"]), (warned, ["scancel", "--signal=USR2"])):
        wait_for(partial(is_searching, cell.folder(root) / "metrics.csv"))
        ids = json.loads((root / "jobs/submitted.json").read_text())
        subprocess.run([*command, ids[cell.folder(root).name]], check=True)
    launcher.join()
    assert [row.relu_count for row in rows] == [96, 0]
    assert (root / "comparison.html").exists()

    outputs = [(root / f"jobs/{ids[cell.folder(root).name]}_0_log.out") for cell in (preempted, warned)]
    assert [text.read_text().count("Starting with JobEnvironment") for text in outputs] == [2, 2]
    for cell in (preempted, warned):
        fields = cell_config(recipe, cell).model_dump(mode="json", exclude_none=True)
        fields["baseline"]["checkpoint"] = str(cell.baseline(root))
        train(fields, tmp_path / cell.budget)
        for name in ("model.safetensors", "budget.json"):
            assert (cell.folder(root) / name).read_bytes() == (tmp_path / cell.budget / name).read_bytes()


def test_a_cancelled_job_is_not_waited_for(tmp_path: Path) -> None:
    """It leaves no result, and a cluster without accounts does not say that it has ended."""
    errors: list[AurepError] = []

    def launch() -> None:
        try:
            compare(tiny_config(), tmp_path, ["random"], ["0"], [0], launcher=CLUSTER)
        except AurepError as error:
            errors.append(error)

    launcher = Thread(target=launch)
    launcher.start()
    ledger = tmp_path / "jobs/submitted.json"
    wait_for(ledger.exists)
    subprocess.run(["scancel", json.loads(ledger.read_text())["baseline-s0"]], check=True)
    launcher.join(600)
    assert "1 of 1 jobs ended without a result" in str(errors)
