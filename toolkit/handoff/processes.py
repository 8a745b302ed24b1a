"""Parties as processes: started together, watched together, ended together.

Every party leads a process group of its own, reports through a pipe and logs to a file. The first one that fails, or
the time-out, ends all of them. Should this process die instead, the parties notice by themselves (see
`parties/party_io.py`).
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aurep.errors import AurepError
from aurep.handoff.environment import clean_environ

Event = dict[str, Any]
Job = dict[str, Any]
_TAIL_LINES = 12


@dataclass
class _Party:
    role: str
    process: subprocess.Popen[bytes]
    log: Path
    pending: bytes = b""
    phase: str = "starting"
    error: str | None = None
    result: Event | None = None


def run_parties(
    command: Sequence[str],
    roles: Sequence[str],
    jobs: Sequence[Job],
    folder: Path,
    timeout: float,
    heard: Callable[[int, Event], None],
) -> list[Event]:
    """Run `command JOB.json` once per job; returns the parties' results.

    Args:
        command: interpreter and program.
        roles: what each party is called in errors.
        jobs: what each party is told, as JSON; `rank`, `events` and `lifeline` are added.
        folder: for jobs and logs (`party0.log`, ...).
        timeout: seconds until the run is given up.
        heard: gets every event with its party's rank.

    Raises:
        AurepError: a party failed, died or hung: with its own error and the end of its log.
    """
    if sys.platform == "win32":
        raise AurepError("the parties need inherited pipes, which Windows lacks; run the hand-over on Linux or macOS.")
    parties: list[_Party] = []
    lifeline, held = os.pipe()
    selector = selectors.DefaultSelector()
    try:
        for rank, (role, job) in enumerate(zip(roles, jobs, strict=True)):
            party, events = _start(command, role, {**job, "rank": rank, "lifeline": lifeline}, folder)
            parties.append(party)
            selector.register(events, selectors.EVENT_READ, party)
        _watch(parties, selector, time.monotonic() + timeout, heard)
        _judge(parties, timeout)
        return [party.result or {} for party in parties]
    finally:
        os.close(held)
        os.close(lifeline)
        for party in parties:
            _end(party.process)
        for key in list(selector.get_map().values()):
            os.close(key.fd)
        selector.close()


def _start(command: Sequence[str], role: str, job: Job, folder: Path) -> tuple[_Party, int]:
    events, theirs = os.pipe()
    file, log = folder / f"job{job['rank']}.json", folder / f"party{job['rank']}.log"
    file.write_text(json.dumps({**job, "events": theirs}), encoding="utf-8")
    threads = os.environ.get("OMP_NUM_THREADS", str(job["threads"]))
    settings = {**clean_environ(), "OMP_NUM_THREADS": threads, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*command, str(file)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=settings,
                pass_fds=(theirs, job["lifeline"]),
                start_new_session=True,
            )
    except OSError:
        os.close(events)
        raise
    finally:
        os.close(theirs)
    return _Party(role, process, log), events


def _watch(
    parties: Sequence[_Party],
    selector: selectors.BaseSelector,
    deadline: float,
    heard: Callable[[int, Event], None],
) -> None:
    """Take events until every party is done, one has failed, or the time is up."""
    while selector.get_map() and (left := deadline - time.monotonic()) > 0:
        for key, _ in selector.select(left):
            party: _Party = key.data
            data = os.read(key.fd, 65536)
            for event in _events(party, data):
                heard(parties.index(party), event)
            if not data:
                selector.unregister(key.fd)
                os.close(key.fd)
            if party.error is not None or (not data and party.result is None):
                return


def _events(party: _Party, data: bytes) -> list[Event]:
    *lines, party.pending = (party.pending + data).split(b"\n")
    events = [json.loads(line) for line in lines]
    for event in events:
        if event["event"] == "phase":
            party.phase = event["name"]
        elif event["event"] == "error":
            party.error = event["message"]
        elif event["event"] == "result":
            party.result = event
    return events


def _judge(parties: Sequence[_Party], timeout: float) -> None:
    for rank, party in enumerate(parties):
        if party.error is not None:
            raise AurepError(f"party {rank} ({party.role}) failed while {_doing(party)}: {party.error}{_tail(party)}")
    for rank, party in enumerate(parties):
        died = party.result is None and _ended(party)
        if died:
            raise AurepError(
                f"party {rank} ({party.role}) {_exit(party)} while {_doing(party)}; its log says why.{_tail(party)}"
            )
    slow = [f"party {i} ({p.role}) is {_doing(p)}" for i, p in enumerate(parties) if p.result is None]
    if slow:
        first = next(party for party in parties if party.result is None)
        raise AurepError(
            f"the parties did not finish within {timeout:g} s: {', '.join(slow)}; give more time with --timeout, or "
            f"fewer --samples.{_tail(first)}"
        )


def _ended(party: _Party) -> bool:
    """Whether the process has ended; one that closed its pipe is about to."""
    try:
        party.process.wait(1)
    except subprocess.TimeoutExpired:
        return False
    return True


def _exit(party: _Party) -> str:
    code = party.process.returncode
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _doing(party: _Party) -> str:
    return f"at {party.phase!r}"


def _tail(party: _Party) -> str:
    lines = party.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    return "".join(f"\n  | {line[:300]}" for line in lines)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the party's whole group, unless it is gone already, and collect it."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
