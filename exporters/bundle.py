"""The folder that is handed over: built beside its destination, checked, then renamed.

model.onnx    the graph with its metadata
budget.json   the same metadata
samples.npz   inputs, the module's logits, labels (absent rows where none were given)
README.md     the card
skeleton.onnx the graph with zero weights, for the party that must not see them (target crypten)
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from aurep.errors import AurepError
from aurep.exporters.capture import Batch
from aurep.exporters.card import write_card
from aurep.exporters.claims import serialise, stamp
from aurep.exporters.targets import Target
from aurep.files import folder_beside
from aurep.metadata import Metadata, graph_digest

MODEL, BUDGET, SAMPLES, CARD, SKELETON = "model.onnx", "budget.json", "samples.npz", "README.md", "skeleton.onnx"
_OURS = frozenset({MODEL, BUDGET, SAMPLES, CARD, SKELETON})


@dataclass(frozen=True)
class Contents:
    """What goes into a bundle. `inputs` (N, ...), `logits` (N, classes), `labels` (N,) or empty."""

    model: bytes
    metadata: Metadata
    target: Target
    batch: Batch
    inputs: NDArray[np.float32]
    logits: NDArray[np.float32]
    labels: NDArray[np.int64]


def write_bundle(folder: Path, contents: Contents, verify: Callable[[Path], None]) -> Path:
    """Write `folder`, replacing a bundle that is there; returns the path of its ONNX file.

    Raises:
        AurepError: `folder` exists and holds anything that aurep did not write there.
    """
    _check_replaceable(folder)
    with folder_beside(folder) as made:
        _fill(made, contents)
        verify(made / MODEL)
        _swap(made, folder)
    return folder / MODEL


def _fill(folder: Path, contents: Contents) -> None:
    (folder / MODEL).write_bytes(contents.model)
    (folder / BUDGET).write_text(contents.metadata.to_json(), encoding="utf-8")
    np.savez(folder / SAMPLES, inputs=contents.inputs, logits=contents.logits, labels=contents.labels)
    (folder / CARD).write_text(write_card(contents.metadata, contents.target, contents.batch), encoding="utf-8")
    if contents.target.skeleton:
        (folder / SKELETON).write_bytes(skeleton(contents.model, contents.metadata))


def skeleton(model: bytes, metadata: Metadata) -> bytes:
    """The same graph with every float initializer zero, and the digest of that graph."""
    empty = onnx.ModelProto.FromString(model)
    for tensor in empty.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            zeros = np.zeros(tuple(tensor.dims), dtype=np.float32)
            tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    stamp(empty, metadata.model_copy(update={"graph_sha256": graph_digest(empty)}))
    return serialise(empty)


def _check_replaceable(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise AurepError(f"{folder} exists and is no folder; give another name for the bundle.")
    if not folder.exists():
        return
    present = {entry.name for entry in folder.iterdir()}
    foreign = sorted(present - _OURS)
    if foreign:
        raise AurepError(
            f"{folder} holds {foreign[0]!r}, which is no part of a bundle; give another folder or move it away."
        )
    if present and not _is_bundle(folder):
        raise AurepError(f"{folder} is not a bundle that aurep wrote; give another folder, or empty it first.")


def _is_bundle(folder: Path) -> bool:
    with suppress(AurepError, OSError, ValueError):
        import json

        Metadata.check(json.loads((folder / BUDGET).read_text(encoding="utf-8")))
        return (folder / MODEL).is_file()
    return False


def _swap(made: Path, folder: Path) -> None:
    """Rename `made` to `folder`; what was there goes only once the new one stands, and comes back if that fails."""
    if not folder.exists():
        made.rename(folder)
        return
    old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
    folder.replace(old)
    try:
        made.rename(folder)
    except OSError:
        old.replace(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
