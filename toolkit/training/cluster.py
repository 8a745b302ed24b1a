"""A comparison on a Slurm cluster, through submitit: an array job per batch, a run per element.

First the teachers, one element per seed that lacks one, then the cells. An element that is preempted or out of time
writes its checkpoint, is requeued and goes on: what it does is what every worker does, and that resumes. Where the
submitting process ends before its jobs, they go on; started again, it waits for them instead of submitting twice.

    FOLDER/jobs/                  submitit's scripts, and the output of every element
    FOLDER/jobs/submitted.json    run folder -> the job it was last submitted as
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from aurep.errors import AurepError
from aurep.files import write_text
from aurep.training.arithmetic import settled_like
from aurep.training.cells import Cell, attempt, claimed
from aurep.training.checkpoint import RunFolder
from aurep.training.cluster_options import ClusterOptions
from aurep.training.config import Config
from aurep.training.heap import keep_freed_memory
from aurep.training.progress import Progress
from aurep.training.runs import train_baseline
from aurep.training.signals import Stopped

if TYPE_CHECKING:
    import submitit

_LOOK_AGAIN_SECONDS = 2.0


@dataclass(frozen=True)
class Work:
    """What one element of the array does; submitit pickles it, and calls `checkpoint` before it requeues.

    The first one to run settles the recipe's "auto" for all: the submitting machine may have no GPU.
    """

    recipe: Config
    cell: Cell
    config: Config
    root: Path
    teacher_only: bool

    @property
    def out(self) -> Path:
        return self.cell.baseline(self.root) if self.teacher_only else self.cell.folder(self.root)

    @property
    def done(self) -> bool:
        return RunFolder(self.out).teacher.exists() if self.teacher_only else self.cell.ended(self.root)

    def __call__(self) -> str:
        """Why there is no result, where there is none and aurep knows."""
        console = Console(width=120)
        keep_freed_memory()
        try:
            config = settled_like(self.config, claimed(self.root, self.recipe, Progress(console)))
            if self.teacher_only:
                train_baseline(config, self.out, console)
            else:
                attempt(self.cell, config, self.root, console)
        except AurepError as error:  # also where another worker holds the folder
            return str(error)
        except Stopped as stopped:
            signal.raise_signal(stopped.number)  # now submitit's own handler: it requeues, or says why not
            while stopped.number == signal.SIGTERM:
                signal.pause()  # preempted or cancelled: Slurm requeues what it kills, not what ends by itself
        return "" if self.done else f"another process works in {self.out}"

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass(frozen=True)
class Cluster:
    """Runs the cells of a comparison as jobs.

    Args:
        options: what a job may use.
        kind: "local" is submitit's executor for one machine, by which a cluster's code path runs without a cluster.
    """

    options: ClusterOptions
    kind: Literal["slurm", "local"] = "slurm"

    def __call__(
        self, recipe: Config, configs: Mapping[Cell, Config], root: Path, console: Console | None = None
    ) -> None:
        """Submit what has not ended, and wait until it has.

        Raises:
            AurepError: submitit or Slurm is missing, Slurm refuses the job, or jobs ended without a result.
        """
        root = root.resolve()
        executor = self._executor(root / "jobs")
        cells = list(configs)
        first = {cell.seed: cell for cell in reversed(cells) if configs[cell].baseline.checkpoint is None}
        for teacher_only, batch in ((True, [*first.values()]), (False, cells)):
            works = [Work(recipe, cell, configs[cell], root, teacher_only) for cell in batch if not cell.ended(root)]
            _run({work.out.name: work for work in works if not work.done}, executor, console)

    def _executor(self, jobs: Path) -> submitit.AutoExecutor:
        try:
            import submitit
        except ImportError as error:
            raise AurepError(f'--launcher slurm needs submitit ({error}); pip install "aurep[slurm]".') from error
        try:
            executor = submitit.AutoExecutor(jobs, cluster=self.kind, slurm_max_num_timeout=self.options.requeues)
        except RuntimeError as error:
            raise AurepError(f"{error} Start this where sbatch and srun are, or use --launcher local.") from error
        executor.update_parameters(**self.options.of_submitit())
        return executor


def _run(works: dict[str, Work], executor: submitit.AutoExecutor, console: Console | None) -> None:
    """Submit each of `works` that no earlier job still does, and wait for all."""
    if not works:
        return
    from aurep.training.slurm_queue import follow

    ledger = Path(executor.folder) / "submitted.json"
    submitted: dict[str, str] = json.loads(ledger.read_text()) if ledger.exists() else {}
    job_class = executor._executor.job_class
    jobs = {name: follow(job_class(executor.folder, submitted[name])) for name in works if name in submitted}
    jobs = {name: job for name, job in jobs.items() if not job.done()}
    new = [name for name in works if name not in jobs]
    if console is not None:
        console.print(f"{len(new)} jobs to submit, {len(jobs)} in flight; what they print: {executor.folder}")
    if new:
        with _refusals(), executor.batch():
            fresh = [executor.submit(works[name]) for name in new]
        jobs.update(zip(new, map(follow, fresh), strict=True))
        write_text(ledger, json.dumps(submitted | {name: job.job_id for name, job in jobs.items()}, indent=2) + "\n")
    _wait(jobs, console)
    failed = {name: job for name, job in jobs.items() if not works[name].done}
    if failed:
        raise AurepError(
            f"{len(failed)} of {len(jobs)} jobs ended without a result; the same command goes on where they stopped.",
            [f"  {name}, job {job.job_id}: {_reason(job)}" for name, job in failed.items()],
        )


@contextmanager
def _refusals() -> Iterator[None]:
    from submitit.core.utils import FailedSubmissionError, UncompletedJobError

    try:
        yield
    except (FailedSubmissionError, UncompletedJobError) as error:
        said = str(error).strip().splitlines() or ["no reason given"]
        raise AurepError(f"Slurm refused the jobs: {said[-1]}") from error


def _wait(jobs: Mapping[str, submitit.Job[Any]], console: Console | None) -> None:
    waiting = dict(jobs)
    while waiting:
        for name in [name for name, job in waiting.items() if job.done()]:
            job = waiting.pop(name)
            if console is not None:
                console.print(f"{name}: job {job.job_id} has ended", highlight=False)
        time.sleep(_LOOK_AGAIN_SECONDS if waiting else 0)


def _reason(job: submitit.Job[Any]) -> str:
    if job.exception() is None:
        return str(job.result() or "ended without a word")
    return f"failed, see {job.paths.stderr}"
