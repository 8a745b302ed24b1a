"""Asking another process to do what a stranger's file could crash, hang or blow up.

Servers (see `server`) wait for the next job after one, so that a program which validates many files pays their start
once. A job that breaks costs its worker, never the caller: it is one refusal that names the file and the stage.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from aurep.errors import AurepError
from aurep.validators.sandbox.limits import Limits

Progress = Callable[[str], None]
_FORKS = hasattr(os, "fork")  # elsewhere (Windows) jobs are done here, and nothing bounds them
_idle: list[_Server] = []


def prepare() -> None:
    """Have a server start up while its caller does something else."""
    if not _idle and _FORKS:
        _idle.append(_Server())


def ask(job: str, arguments: Mapping[str, Any], limits: Limits, progress: Progress | None = None) -> dict[str, Any]:
    """The answer of `worker.JOBS[job]` as data: `reply`, or `error` and its `kind`, or what `broken` says and `stage`.

    Args:
        job: its name.
        arguments: plain data.
        limits: of this job.
        progress: is told every stage that the job enters.
    """
    if not _FORKS:
        from aurep.validators.sandbox.worker import answer as answer_here

        return answer_here({"job": job, "arguments": arguments})
    server = _idle.pop() if _idle else _Server()
    try:
        answer = server.ask(job, arguments, limits, progress or (lambda _: None))
    except BaseException:
        server.close()
        raise
    _idle.append(server)
    return answer


class _Server:
    def __init__(self) -> None:
        """Not the working folder, which may be a stranger's, but what this process imports from is where it imports
        from."""
        given = os.pathsep.join(entry for entry in sys.path if entry)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "aurep.validators.sandbox.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": given},
            start_new_session=True,
        )

    def ask(self, job: str, arguments: Mapping[str, Any], limits: Limits, progress: Progress) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        path = [os.path.abspath(entry) for entry in sys.path]
        request = {"job": job, "arguments": arguments, "limits": limits.to_dict(), "path": path}
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
            for line in self.process.stdout:
                message: dict[str, Any] = json.loads(line)
                if message.keys() != {"stage"}:
                    return message
                progress(message["stage"])
        except BrokenPipeError:
            pass
        raise AurepError("the process that validates files ended; it may be out of memory, or its start failed.")

    def close(self) -> None:
        """Its input ends, so that it ends its worker, removes its scratch folder, and ends itself."""
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        self.process.wait()


@atexit.register
def _close_all() -> None:
    while _idle:
        _idle.pop().close()


if _FORKS:
    os.register_at_fork(after_in_child=_idle.clear)  # the servers are the parent's
