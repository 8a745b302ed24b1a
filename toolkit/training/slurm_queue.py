"""A Slurm job as submitit has it, but looked up in the queue instead of in the accounts.

submitit asks sacct. Where a cluster keeps no accounts that knows nothing, and a job that was cancelled, or killed
before it could write a result, would be waited for without end; the controller's queue every cluster has.
"""

from __future__ import annotations

from typing import Any

import submitit
from submitit.slurm.slurm import SlurmInfoWatcher

_GONE = "GONE"
_STATES = "PENDING,RUNNING,SUSPENDED,COMPLETING"  # requeued and held jobs are pending ones


class QueueWatcher(SlurmInfoWatcher):
    """States by job id; a job that the queue does not list has ended. Where squeue fails, all stay as they were."""

    def _make_command(self) -> list[str]:
        return ["squeue", "--me", "--noheader", "--array", f"--states={_STATES}", "--format=%i|%T"]

    def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
        text = string if isinstance(string, str) else string.decode()
        listed = dict(line.strip().split("|") for line in text.splitlines())
        return {job: {"State": listed.get(job, _GONE)} for job in self._registered}

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        return self.get_state(job_id, mode=mode) == _GONE


_QUEUE = QueueWatcher(delay_s=60)


def follow(job: submitit.Job[Any]) -> submitit.Job[Any]:
    """`job` itself; one of Slurm's is looked up in the queue from here on."""
    if isinstance(job, submitit.SlurmJob):
        job.watcher = _QUEUE
    return job
