"""What every party does: read its job, report events, and never outlive the process that started it.

A party is started as `python NAME_party.py JOB.json`; the job names two inherited pipes. `events` takes one JSON object
a line. `lifeline` is only held open by the parent: when it closes, the parent is gone and the party exits at once.
Standard library only: this file runs in environments that aurep knows nothing of.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


class Party:
    """This process: its `job` (a dict) and the way to report."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.rank: int = job["rank"]
        self._events: int = job["events"]

    def emit(self, event: str, **fields: Any) -> None:
        """Send one event. A line is short enough to be written in one piece."""
        line = json.dumps({"event": event, **fields}).encode() + b"\n"
        while line:
            line = line[os.write(self._events, line) :]

    def phase(self, name: str) -> None:
        self.emit("phase", name=name)

    def progress(self, done: float, of: int) -> None:
        self.emit("progress", done=done, of=of)


def run(main: Callable[[Party], dict[str, Any]]) -> None:
    """Run `main` as the party that the command line names; what it returns is the party's result."""
    party = Party(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    _die_with_parent(party.job["lifeline"])
    try:
        result = main(party)
    except BaseException as error:  # whatever ends a party, SystemExit included, the session must hear of
        traceback.print_exc()
        sys.stderr.flush()
        party.emit("error", message=f"{type(error).__name__}: {error}")
        os._exit(1)
    party.emit("result", **result)
    # The frameworks' own threads may wait for each other at exit; all that matters has been written.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _die_with_parent(lifeline: int) -> None:
    if sys.platform == "linux":  # works even while native code holds the interpreter's lock
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()


def _watch(lifeline: int) -> None:
    while os.read(lifeline, 1):
        pass
    os._exit(1)
