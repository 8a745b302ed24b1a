"""Bytes of an SPU party, from what SPU logs after every run of a program with its profile switched on.

... - pphlo.less, executed 3 times, duration 0.04s, send bytes 258048 recv bytes 258048, send actions 21, recv ...
... Link details: total send bytes 601544, recv bytes 601544, send actions 33, recv actions 33
"""

from __future__ import annotations

import re
from typing import Any

_OPERATOR = re.compile(
    r"- (?P<op>[\w.]+), executed (?P<times>\d+) times, duration \S+, send bytes (?P<sent>\d+) recv bytes \d+, "
    r"send actions (?P<actions>\d+)"
)
_LINK = re.compile(r"Link details: total send bytes (?P<sent>\d+), recv bytes \d+, send actions (?P<actions>\d+)")


def parse_log(text: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(one entry of `bytes_sent` and `rounds` a run, what each operator sent in the first run)."""
    runs = [{"bytes_sent": int(m["sent"]), "rounds": int(m["actions"])} for m in _LINK.finditer(text)]
    first = text.split("Link details", 1)[0]
    operators = [
        {"op": m["op"], "times": int(m["times"]), "bytes_sent": int(m["sent"]), "rounds": int(m["actions"])}
        for m in _OPERATOR.finditer(first)
        if int(m["sent"])
    ]
    return runs, operators
