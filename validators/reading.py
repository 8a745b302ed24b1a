"""Opening what a user hands over: a bundle folder or an ONNX file, possibly broken, huge or hostile.

A file is refused with one sentence before anything is allocated from the sizes it claims. External weights are read
only from plain files in the model's own folder, so that a model cannot pull other files into memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import helper

from aurep.errors import AurepError
from aurep.metadata import PREFIX, Metadata

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
    external = any(_is_external(tensor) for tensor in _tensors_of(model))
    if external:
        _load_external(model, file)
    for tensor in _tensors_of(model):
        _check_size(tensor, file)
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
    if not model.opset_import or not model.HasField("graph") or not model.graph.output:
        raise AurepError(f"{file} is not an ONNX model: it holds no graph with outputs; export or copy it again.")
    return model


def read_json(file: Path) -> object:
    """Parse a JSON file of a bundle or run. Raises AurepError where it is absent or malformed."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise AurepError(f"{file} cannot be read: {error.strerror}; export or train again.") from None
    except (ValueError, RecursionError):
        raise AurepError(f"{file} is not JSON; export or train again.") from None


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and every body of its If, Loop and Scan nodes."""
    yield graph
    yield from _bodies(graph.node)


def _bodies(nodes: object) -> Iterator[onnx.GraphProto]:
    for node in nodes:  # type: ignore[attr-defined]
        for attribute in node.attribute:
            for body in [attribute.g] * attribute.HasField("g") + list(attribute.graphs):
                yield from graphs_of(body)


def _tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that the file stores, wherever it hides."""
    node_lists = [function.node for function in model.functions]
    for graph in [*graphs_of(model.graph), *(g for nodes in node_lists for g in _bodies(nodes))]:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        node_lists.append(graph.node)
    for nodes in node_lists:
        for attribute in (a for node in nodes for a in node.attribute):
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in [attribute.sparse_tensor] * attribute.HasField("sparse_tensor"):
                yield from (sparse.values, sparse.indices)


def _is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def _load_external(model: onnx.ModelProto, file: Path) -> None:
    """Read external tensors into `model`, from plain files inside the model's folder only."""
    folder = file.resolve().parent
    for tensor in filter(_is_external, list(_tensors_of(model))):
        fields = {entry.key: entry.value for entry in tensor.external_data}
        location = fields.get("location", "")
        source = folder / location
        inside = location and not Path(location).is_absolute() and source.resolve().is_relative_to(folder)
        if not inside or source.is_symlink() or not source.is_file():
            raise AurepError(
                f"{file} keeps tensor {tensor.name!r} in the external file {location!r}, which is not a plain file in "
                "the model's own folder; export the model as a single file."
            )
        tensor.raw_data = _external_bytes(tensor, fields, source, file)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _external_bytes(tensor: onnx.TensorProto, fields: dict[str, str], source: Path, file: Path) -> bytes:
    try:
        offset, length = int(fields.get("offset", "0")), _expected_bytes(tensor, file)
        declared = int(fields.get("length", length))
    except ValueError:
        raise AurepError(f"{file}: tensor {tensor.name!r} has a malformed external reference; export again.") from None
    if offset < 0 or declared != length or offset + length > source.stat().st_size:
        raise AurepError(
            f"{file}: tensor {tensor.name!r} needs {length:,} bytes at {offset:,} of {source.name}, which has "
            f"{source.stat().st_size:,}; export the model again."
        )
    with source.open("rb") as stream:
        stream.seek(offset)
        return stream.read(length)


def _expected_bytes(tensor: onnx.TensorProto, file: Path) -> int:
    if any(dim < 0 for dim in tensor.dims):
        raise AurepError(f"{file}: tensor {tensor.name!r} has a negative dimension; export the model again.")
    try:
        bits: int = (
            4 if tensor.data_type in _FOUR_BITS else helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * 8
        )
    except (KeyError, TypeError):
        raise AurepError(f"{file}: tensor {tensor.name!r} is of an unknown data type; export again.") from None
    size: int = -(-prod(tensor.dims) * bits // 8)
    return size


_FOUR_BITS = {onnx.TensorProto.UINT4, onnx.TensorProto.INT4, onnx.TensorProto.FLOAT4E2M1}


def _check_size(tensor: onnx.TensorProto, file: Path) -> None:
    """Refuse a tensor whose stored data does not fill the dimensions it declares."""
    elements = prod(tensor.dims)
    if tensor.HasField("raw_data"):
        expected, stored = _expected_bytes(tensor, file), len(tensor.raw_data)
        if expected != stored:
            raise AurepError(
                f"{file}: tensor {tensor.name!r} of dimensions {list(tensor.dims)} needs {expected:,} bytes but the "
                f"file holds {stored:,}; the file is damaged, export or copy it again."
            )
        return
    stored = sum(len(getattr(tensor, field)) for field in _TYPED_FIELDS)
    packed = tensor.data_type in _FOUR_BITS and stored == -(-elements // 2)
    pairs = 2 if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128) else 1
    if any(dim < 0 for dim in tensor.dims) or (stored != elements * pairs and not packed):
        raise AurepError(
            f"{file}: tensor {tensor.name!r} declares dimensions {list(tensor.dims)} but the file holds {stored:,} "
            "values for it; the file is damaged, export or copy it again."
        )


_TYPED_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


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
