"""What a validation is doing, for the line that a user watches and for the sentence where it ends badly.

A stage is a text on a page of memory that the process shares with the one that watches it, so that it is known after a
crash, and costs nothing to change. Without such a page, stages say nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from mmap import mmap

from aurep.errors import one_line

PAGE = 1024  # bytes
_page: mmap | None = None
_text = ""


def share(page: mmap) -> None:
    """Write stages to `page` from now on."""
    global _page
    _page = page


def say(text: str) -> None:
    """Enter a stage, e.g. `while folding constants`, until another is entered."""
    global _text
    _text = text
    if _page is not None:
        _page[:PAGE] = text.encode(errors="replace")[:PAGE].ljust(PAGE, b"\0")


@contextmanager
def stage(text: str) -> Iterator[None]:
    """A stage within another. Where it ends in an exception it remains: that is where things broke."""
    outer = _text
    say(text)
    yield
    say(outer)


def read(page: mmap) -> str:
    """The stage on `page`, which another process may be writing: one line, whatever names a file put into it."""
    return one_line(page[:PAGE].rstrip(b"\0").decode(errors="replace"))
