"""Opening what a user hands over: a bundle folder or an ONNX file, possibly broken, huge or hostile.

A file is refused with one sentence before anything is allocated from the sizes it claims. External weights are read
only from plain files in the model's own folder, so that a model cannot pull other files into memory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from aurep.errors import AurepError
from aurep.metadata import PREFIX, Metadata, parse_json
from aurep.validators.files.plain import open_plain, plain_bytes
from aurep.validators.files.storage import check_size, check_tensor, is_external, is_text, load_external, tensors_of
from aurep.validators.stages import say

MODEL_FILE = "model.onnx"
_BESIDE = ("budget.json", "samples.npz")  # read later, or not at all, but never waited for


@dataclass(frozen=True)
class Artefact:
    """An opened model. `bundle` is its folder where one was given; `problem` says why `metadata` is absent."""

    file: Path
    bundle: Path | None
    model: onnx.ModelProto
    metadata: Metadata | None
    problem: str | None
    external: bool  # weights lie in other files beside it


def read(path: str | Path) -> Artefact:
    """Open `path`, a bundle folder or an ONNX file. Raises AurepError where it cannot be read as a model."""
    say("while reading the file")
    given = Path(path)
    file = given / MODEL_FILE if given.is_dir() else given
    for name in _BESIDE if given.is_dir() else ():
        if os.path.lexists(given / name):
            open_plain(given / name).close()
    model = read_model(file)
    tensors = list(tensors_of(model))
    for tensor in tensors:
        check_tensor(tensor, file)
    external = list(filter(is_external, tensors))
    load_external(external, file)
    for tensor in tensors:
        check_size(tensor, file)
    metadata, problem = _metadata(model)
    return Artefact(file, given if given.is_dir() else None, model, metadata, problem, bool(external))


def read_model(file: Path) -> onnx.ModelProto:
    """Parse an ONNX file without its external data."""
    if not file.exists():
        raise AurepError(f"{file} does not exist; give an ONNX file or a bundle folder that holds {MODEL_FILE}.")
    data = plain_bytes(file)
    if not data:
        raise AurepError(f"{file} is empty; export the model again.")
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except DecodeError:
        raise AurepError(f"{file} is not an ONNX model, or is truncated; export or copy it again.") from None
    if not is_text(model):
        raise AurepError(f"{file} is damaged: a name in it is not UTF-8 text; export or copy it again.")
    if not model.opset_import or not model.HasField("graph") or not model.graph.output:
        raise AurepError(f"{file} is not an ONNX model: it holds no graph with outputs; export or copy it again.")
    return model


def read_json(file: Path) -> object:
    """Parse a JSON file of a bundle or run. Raises AurepError where it is absent or malformed."""
    try:
        return parse_json(plain_bytes(file).decode())
    except ValueError:
        raise AurepError(f"{file} is not JSON that names each key once; export or train again.") from None


def _metadata(model: onnx.ModelProto) -> tuple[Metadata | None, str | None]:
    props: dict[str, str] = {}
    for entry in model.metadata_props:
        if entry.key.startswith(PREFIX) and entry.key in props:
            return None, f"the metadata key {entry.key} occurs twice; export the model again."
        props[entry.key] = entry.value
    try:
        return Metadata.from_props(props), None
    except AurepError as error:
        return None, str(error)
