"""Comparisons as jobs: the same rows as without, also after a preemption; what Slurm is asked for; errors as sentences.

submitit's local executor runs a job's code for real. Slurm's own commands are stood in for by small scripts that run
the batch script that sbatch is given.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from aurep import AurepError
from aurep.cli import main
from aurep.training.cells import Cell, cell_config
from aurep.training.cluster import Cluster, Work
from aurep.training.cluster_options import ClusterOptions, read_options
from aurep.training.compare import compare
from aurep.training.config import Config
from aurep.training.runs import train
from tests.toolkit.training.tiny import tiny_config

submitit = pytest.importorskip("submitit", reason="submitit is not installed (extra slurm)")
pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = {"baseline__epochs": 1, "search__epochs": 1, "finetune__epochs": 1, "train__precision": "fp32"}
_SBATCH = r"""#!{python}
import os, re, subprocess, sys
from pathlib import Path
script = Path(sys.argv[1])
number = len(list(Path(__file__).parent.glob("batch-*"))) + 1
Path(__file__).with_name(f"batch-{{number}}").write_text(script.read_text())
array = re.search(r"--array='?0-(\d+)", script.read_text())
for task in range(int(array[1]) + 1 if array else 1):
    facts = {{"SLURM_JOB_ID": str(number), "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "aurep", "SLURM_NNODES": "1"}}
    if array:
        facts |= {{"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(task)}}
    log = Path(__file__).with_name(f"log-{{number}}-{{task}}").open("w")
    subprocess.Popen(["bash", str(script)], env=os.environ | facts, stdout=log, stderr=log)
print(f"Submitted batch job {{number}}")
"""
_SRUN = r"""#!/usr/bin/env bash
while [[ "$1" == --* ]]; do if [[ "$1" == --output || "$1" == --error ]]; then shift; fi; shift; done
exec "$@"
"""


def _local(**options: object) -> Cluster:
    return Cluster(ClusterOptions(gpus=0, time=30, **options), kind="local")


def test_jobs_give_the_rows_of_one_process_and_are_not_run_again(tmp_path: Path) -> None:
    arguments = (["autorep"], ["10%"], [0])
    rows = compare(tiny_config(**SHORT), tmp_path / "jobs", *arguments, launcher=_local())
    before = (tmp_path / "jobs/jobs/submitted.json").read_text()
    assert [(row.budget, row.relu_count) for row in rows] == [("10%", 96)]
    here = compare(tiny_config(**SHORT), tmp_path / "here", *arguments)
    assert [row.test_accuracy for row in rows] == [row.test_accuracy for row in here]
    assert compare(tiny_config(**SHORT), tmp_path / "jobs", *arguments, launcher=_local()) == rows
    assert (tmp_path / "jobs/jobs/submitted.json").read_text() == before


def test_a_preempted_job_is_requeued_and_ends_where_it_would_have(tmp_path: Path) -> None:
    cell = Cell("autorep", "10%", 0)
    recipe = tiny_config(baseline__epochs=3, search__epochs=6, finetune__epochs=6, train__precision="fp32")
    config = cell_config(recipe, cell)
    work = Work(recipe, cell, config, tmp_path / "preempted", teacher_only=False)
    executor = submitit.LocalExecutor(tmp_path / "logs")
    executor.update_parameters(timeout_min=30)
    job = executor.submit(work)
    rows = work.out / "metrics.csv"
    while not rows.exists() or "search" not in rows.read_text():
        assert not job.done(), job.stderr()
        time.sleep(0.02)
    (task,) = Path(f"/proc/{job.job_id}/task/{job.job_id}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)
    assert job.result() == ""
    assert "Requeued job" in job.stdout()
    assert work.done

    teacher = work.cell.baseline(work.root)
    fields = config.model_dump(mode="json", exclude_none=True)
    fields["baseline"]["checkpoint"] = str(teacher)
    train(fields, tmp_path / "whole")
    assert (work.out / "model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_slurm_gets_arrays_with_the_options_and_its_jobs_their_elements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = "#!/bin/sh\nprintf '1|RUNNING\\n2_0|RUNNING\\n2_1|PENDING\\n'\n"
    commands = {"sbatch": _SBATCH.format(python=sys.executable), "srun": _SRUN, "squeue": queue}
    for name, text in commands.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    options = read_options(["partition=gpu", "time=02:30:00", "gpus=0", "account=ours", "parallel=1", "setup=['true']"])
    rows = compare(tiny_config(**SHORT), tmp_path / "out", ["random"], ["10%", "0"], [0], launcher=Cluster(options))
    assert [row.relu_count for row in rows] == [96, 0]
    teacher, cells = ((tmp_path / f"batch-{number}").read_text() for number in (1, 2))
    asked = {"--partition=gpu", "--time=150", "--account=ours", "--cpus-per-task=4", "--signal=USR2@120"}
    for script in (teacher, cells):
        assert asked <= {line.removeprefix("#SBATCH ") for line in script.splitlines()}
        assert "\ntrue\n" in script
        assert "--cpus-per-task=4 " in script.splitlines()[-1]  # srun's own
    assert "--array" not in teacher
    assert "#SBATCH --array=0-1%1" in cells


def test_jobs_in_flight_are_waited_for_not_submitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher that was killed and started again finds its array's elements by their ids."""
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho must not be called >&2\nexit 1\n")
    (tmp_path / "srun").write_text(_SRUN)
    cell = Cell("random", "0", 0)
    root = tmp_path / "out"
    config = cell_config(tiny_config(**SHORT), cell)
    (root / "jobs").mkdir(parents=True)
    (root / "jobs/submitted.json").write_text('{"baseline-s0": "7", "random-0-s0": "8"}')
    (tmp_path / "squeue").write_text("#!/bin/sh\nprintf '7|RUNNING\\n8|PENDING\\n'\n")
    for name in ("sbatch", "srun", "squeue"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    elsewhere = threading.Thread(target=_elements, args=(cell, config, root))
    elsewhere.start()
    rows = compare(tiny_config(**SHORT), root, ["random"], ["0"], [0], launcher=Cluster(ClusterOptions(gpus=0)))
    elsewhere.join()
    assert [row.relu_count for row in rows] == [0]


def _elements(cell: Cell, config: Config, root: Path) -> None:
    """What jobs 7 and 8 do."""
    for number in (7, 8):
        result = Work(tiny_config(**SHORT), cell, config, root, teacher_only=number == 7)()
        submitit.core.utils.cloudpickle_dump(("success", result), root / f"jobs/{number}_0_result.pkl")


def test_a_job_without_a_result_says_why(tmp_path: Path) -> None:
    config = tiny_config(**SHORT, data__name="npz:missing.npz")
    with pytest.raises(AurepError, match=r"1 of 1 jobs ended without a result(.|\n)*baseline-s0, job \d+: .*missing"):
        compare(config, tmp_path, ["random"], ["0"], [0], launcher=_local())


def test_missing_submitit_and_missing_slurm_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AurepError, match=r"srun.*--launcher local"):
        compare(tiny_config(), tmp_path / "a", ["random"], ["0"], [0], launcher=Cluster(ClusterOptions()))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(AurepError, match=r"needs submitit .*aurep\[slurm\]"):
        compare(tiny_config(), tmp_path / "b", ["random"], ["0"], [0], launcher=Cluster(ClusterOptions()))


@given(st.integers(0, 30), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_time_is_in_slurms_form_or_minutes(days: int, hours: int, minutes: int, seconds: int) -> None:
    total = days * 86400 + hours * 3600 + minutes * 60 + seconds
    given = f"{days}-{hours:02}:{minutes:02}:{seconds:02}"
    if total:
        options = read_options([f"time={given}"])
        assert 0 <= options.minutes * 60 - total < 60
        assert read_options([f"time={options.minutes}"]).minutes == options.minutes
    else:
        with pytest.raises(AurepError, match="neither minutes"):
            read_options([f"time={given}"])


def test_options_come_from_files_too_and_bad_ones_are_named(tmp_path: Path) -> None:
    (tmp_path / "ours.toml").write_text('partition = "gpu"\nmem = "8GB"\n')
    options = read_options([str(tmp_path / "ours.toml"), "mem=16GB"])
    assert (options.partition, options.mem) == ("gpu", "16GB")
    with pytest.raises(AurepError, match="--slurm gpus=2 is not valid"):
        read_options(["gpus=2"])
    with pytest.raises(AurepError, match="neither KEY=VALUE nor a TOML file"):
        read_options([str(tmp_path / "missing.toml")])
    done = CliRunner().invoke(main, ["compare", "demo", "--slurm", "partition=gpu"])
    assert done.exit_code == 2
    assert "--launcher slurm" in done.output
