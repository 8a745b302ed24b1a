"""Parties as processes: results come back, every way of failing ends all of them with its own error, none is
orphaned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aurep import AurepError
from aurep.handoff.processes import run_parties
from aurep.handoff.session import PARTIES

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows lets no process inherit pipes (pass_fds)")

PROGRAM = f"""
import os, signal, sys, time
sys.path.insert(0, {str(PARTIES)!r})
from party_io import run

def main(party):
    with open(party.job["pids"], "a") as stream:
        stream.write(f"{{os.getpid()}}\\n")
    party.phase("working")
    behaviour = party.job["behave"][party.rank]
    if behaviour == "raise":
        raise ValueError("no such share")
    if behaviour == "die":
        print("out of luck", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "quit":
        os._exit(3)
    if behaviour == "hang":
        time.sleep(600)
    party.progress(1, 1)
    return {{"rank_was": party.rank, "text": "x" * 200_000}}

run(main)
"""


class Parties:
    def __init__(self, folder: Path) -> None:
        self.folder, self.pids = folder, folder / "pids"
        self.program = folder / "program.py"
        self.program.write_text(PROGRAM)
        self.events: list[tuple[int, str]] = []

    def job(self, *behave: str) -> dict[str, Any]:
        return {"behave": behave, "pids": str(self.pids), "threads": 1}

    def run(self, *behave: str, timeout: float = 60) -> list[dict[str, Any]]:
        jobs, command = [self.job(*behave)] * len(behave), [sys.executable, str(self.program)]
        roles = ["owner", "guest", "helper"][: len(behave)]
        return run_parties(command, roles, jobs, self.folder, timeout, self.hear)

    def hear(self, rank: int, event: dict[str, Any]) -> None:
        self.events.append((rank, event["event"]))

    def alive(self) -> list[int]:
        return [pid for pid in map(int, self.pids.read_text().split()) if _runs(pid)]


def _runs(pid: int) -> bool:
    """Whether the process exists and is more than a zombie that nobody has collected yet."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


@pytest.fixture
def parties(tmp_path: Path) -> Parties:
    return Parties(tmp_path)


def test_results_come_back_whole(parties: Parties) -> None:
    results = parties.run("fine", "fine", "fine")
    assert [result["rank_was"] for result in results] == [0, 1, 2]
    assert all(len(result["text"]) == 200_000 for result in results)
    assert {(rank, name) for rank in range(3) for name in ("phase", "progress", "result")} == set(parties.events)
    assert not parties.alive()


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("raise", r"party 1 \(guest\) failed while at 'working': ValueError: no such share"),
        ("die", r"party 1 \(guest\) was ended by SIGKILL while at 'working'[\s\S]*\| out of luck"),
        ("quit", r"party 1 \(guest\) ended with exit code 3"),
    ],
)
def test_a_party_that_fails_ends_the_run_with_its_own_error(behaviour: str, words: str, parties: Parties) -> None:
    with pytest.raises(AurepError, match=words):
        parties.run("hang", behaviour, timeout=300)
    assert not parties.alive()


def test_a_party_that_hangs_ends_the_run_at_the_timeout(parties: Parties) -> None:
    with pytest.raises(AurepError, match=r"did not finish within 3 s: party 1 \(guest\) is at .*--timeout"):
        parties.run("fine", "hang", timeout=3)
    assert not parties.alive()


def test_no_party_outlives_a_killed_parent(parties: Parties) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]);"
        "from test_handoff_processes import Parties; Parties(Path(sys.argv[2])).run('hang', 'hang', timeout=300)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent), str(parties.folder)])
    _wait(lambda: parties.pids.exists() and len(parties.pids.read_text().split()) == 2)
    assert len(parties.alive()) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    _wait(lambda: not parties.alive())


def _wait(until: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
