"""Opening what a user hands over: a bundle folder or an ONNX file, possibly broken, huge or hostile.

A file is refused with one sentence before anything is allocated from the sizes it claims. External weights are read
only from plain files in the model's own folder, so that a model cannot pull other files into memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from aurep.errors import AurepError
from aurep.metadata import PREFIX, Metadata, parse_json
from aurep.validators.files.storage import check_size, check_tensor, is_external, is_text, load_external, tensors_of

MODEL_FILE = "model.onnx"
MAX_FILE_BYTES = 2**31  # protobuf's own limit: a larger file cannot be one ONNX message


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
    given = Path(path)
    file = given / MODEL_FILE if given.is_dir() else given
    model = read_model(file)
    for tensor in tensors_of(model):
        check_tensor(tensor, file)
    external = any(is_external(tensor) for tensor in tensors_of(model))
    if external:
        load_external(model, file)
    for tensor in tensors_of(model):
        check_size(tensor, file)
    metadata, problem = _metadata(model)
    return Artefact(file, given if given.is_dir() else None, model, metadata, problem, external)


def read_model(file: Path) -> onnx.ModelProto:
    """Parse an ONNX file without its external data."""
    if not file.exists():
        raise AurepError(f"{file} does not exist; give an ONNX file or a bundle folder that holds {MODEL_FILE}.")
    if not file.is_file():
        raise AurepError(f"{file} is not a plain file; give an ONNX file or a bundle folder.")
    size = file.stat().st_size
    if size == 0:
        raise AurepError(f"{file} is empty; export the model again.")
    if size >= MAX_FILE_BYTES:
        raise AurepError(f"{file} has {size:,} bytes, but a single ONNX file holds less than 2 GiB; give an ONNX file.")
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(file.read_bytes())
    except OSError as error:
        raise AurepError(f"{file} cannot be read: {error.strerror}; check its permissions.") from None
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
        return parse_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise AurepError(f"{file} cannot be read: {error.strerror}; export or train again.") from None
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
