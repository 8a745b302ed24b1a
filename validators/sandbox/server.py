"""The process that forks workers: imports once what every validation needs, and watches the worker at its job.

    python -P -m aurep.validators.sandbox.server

reads a request a line from standard input and writes lines of JSON to standard output: `stage`, whenever the worker
enters another, and at last its answer (see `worker`), or `broken`, why there is none. It ends where its input does.
"""

from __future__ import annotations

import json
import os
import select
import signal
import tempfile
import time
import warnings
from mmap import mmap
from typing import Any, BinaryIO

from aurep.validators import stages
from aurep.validators.sandbox.limits import Limits
from aurep.validators.sandbox.worker import work

TICK = 0.1  # seconds
MAX_ANSWER = 2**28  # bytes: a report of a million sites


def main() -> None:
    warnings.simplefilter("ignore")  # of forking beside the idle threads of a linear algebra library
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # standard output belongs to the protocol
    requests = os.fdopen(0, "rb", buffering=0, closefd=False)
    while line := requests.readline():
        with tempfile.TemporaryDirectory(prefix="aurep-", ignore_cleanup_errors=True) as scratch:
            _send(replies, _serve(json.loads(line), replies, scratch))


def _send(replies: BinaryIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message).encode() + b"\n")
    replies.flush()


def _serve(request: dict[str, Any], replies: BinaryIO, scratch: str) -> dict[str, Any]:
    page = mmap(-1, stages.PAGE)
    answer_from, answer_to = os.pipe()
    worker = os.fork()
    if worker == 0:
        try:
            os.setsid()
            replies.close()
            os.close(answer_from)
            work(request, answer_to, page, scratch)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(answer_to)
    limits = Limits(**request["limits"])
    try:
        data, broken = _watch(answer_from, page, replies, limits)
    finally:
        os.close(answer_from)
        _end(worker)
    status = os.waitpid(worker, 0)[1]
    answer = {"broken": broken} if broken else _parsed(data, status, limits)
    if "broken" in answer:
        answer["stage"] = stages.read(page)
    return answer


def _watch(source: int, page: mmap, replies: BinaryIO, limits: Limits) -> tuple[bytes, str | None]:
    """What comes out of `source`, and why it was cut off."""
    data, said, end = bytearray(), "", time.monotonic() + limits.wall
    while time.monotonic() < end:
        ready, _, _ = select.select([source, 0], [], [], TICK)
        now = stages.read(page)
        if now != said:
            _send(replies, {"stage": now})
            said = now
        if 0 in ready:  # nobody sends a second request before the answer: the caller is gone
            raise SystemExit(1)
        if source in ready:
            chunk = os.read(source, 2**20)
            data += chunk
            if not chunk:
                return bytes(data), None
            if len(data) > MAX_ANSWER:
                return b"", f"its report is longer than {MAX_ANSWER:,} bytes"
    return b"", f"it takes longer than the limit of {limits.wall:,} s"


def _end(worker: int) -> None:
    """Everything that the worker started, and the worker unless it has ended."""
    for end in (os.killpg, os.kill):
        try:
            end(worker, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def _parsed(data: bytes, status: int, limits: Limits) -> dict[str, Any]:
    if os.WIFSIGNALED(status) and not data:
        number = os.WTERMSIG(status)
        if number == signal.SIGXCPU:
            return {"broken": f"it uses more than the limit of {limits.cpu_seconds:,} s of CPU time"}
        return {"broken": f"the process that met it ended by {signal.Signals(number).name}"}
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        return {"broken": "the process that met it ended without an answer"}
    return answer if isinstance(answer, dict) else {"broken": "the process that met it gave no answer"}


if __name__ == "__main__":
    main()
