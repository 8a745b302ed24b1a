"""The process that meets the file: forked for one job, confined, and gone after it.

It answers with JSON, never with pickled objects, so that whatever a file made of it, its answer is data.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from mmap import mmap
from typing import Any

from aurep.errors import AurepError, one_line
from aurep.validators import stages
from aurep.validators.inspection import inspect
from aurep.validators.relu_count import count_relus
from aurep.validators.sandbox.limits import Limits, confine, relax_memory
from aurep.validators.validation import validate

_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}  # there will be no network to try in vain
JOBS: dict[str, Callable[..., Any]] = {"validate": validate, "inspect": inspect, "count_relus": count_relus}


def work(request: dict[str, Any], answer_to: int, page: mmap, scratch: str) -> None:
    """Do the job and write its answer to the descriptor `answer_to`. Ends in `os._exit` of the caller."""
    log = os.open(os.path.join(scratch, "stderr"), os.O_WRONLY | os.O_CREAT)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.path[:] = request["path"]
    os.environ |= _OFFLINE
    os.chdir(scratch)
    tempfile.tempdir = scratch
    stages.share(page)
    confine(Limits(**request["limits"]))
    text = json.dumps(answer(request)).encode()
    with os.fdopen(answer_to, "wb") as stream:
        stream.write(text)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """`reply`, or the `error` that a sentence was written for, or why a sentence is still to be made (`broken`)."""
    try:
        return {"reply": JOBS[request["job"]](**request["arguments"]).to_dict()}
    except AurepError as error:
        return {"error": str(error), "kind": type(error).__name__}
    except MemoryError:
        relax_memory()
        return {"broken": "it needs more memory than the limit allows", "traceback": traceback.format_exc(-5)}
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        reason = one_line(f"{type(error).__name__}: {lines[0][:200]}".rstrip(": "))
        return {"broken": reason, "traceback": traceback.format_exc(-20)}
