"""Files that are plain files: pipes, devices and folders may block for ever or never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from aurep.errors import AurepError

MAX_BYTES = 2**31  # protobuf's own limit on a message, and the ONNX files that other tools take in one piece


def open_plain(file: Path) -> BinaryIO:
    """`file` opened for reading. Raises AurepError where it is no plain file of less than 2 GiB, or cannot be read."""
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AurepError(f"{file} cannot be read: {reason}; copy it or export again.") from None
    found = os.fstat(descriptor)  # of what was opened, so that nobody can exchange it in between
    if stat.S_ISREG(found.st_mode) and found.st_size < MAX_BYTES:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISREG(found.st_mode):
        raise AurepError(
            f"{file} has {found.st_size:,} bytes, but files of a bundle have less than 2 GiB; export again."
        )
    raise AurepError(f"{file} is not a plain file; give an ONNX file or a bundle folder of plain files.")


def plain_bytes(file: Path) -> bytes:
    with open_plain(file) as stream:
        return stream.read()
