"""Whether what an ONNX file stores is well formed: its texts, and its tensors with their external data.

All of it is checked before anything else reads the model, so that nothing after it need expect a damaged one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import TensorProto, helper

from aurep.errors import AurepError
from aurep.validators.files.plain import MAX_BYTES, open_plain

MAX_EXTENT = 2**48  # of the axes that are not empty: numpy refuses shapes beyond 2^63 bytes even without elements
_FOUR_BITS = {TensorProto.UINT4, TensorProto.INT4, TensorProto.FLOAT4E2M1}
_COMPLEX = {TensorProto.COMPLEX64, TensorProto.COMPLEX128}
_TYPED_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def is_text(message: Message) -> bool:
    """Whether every string in `message` is UTF-8. (A parser of this format leaves any other as bytes.)"""
    for field, value in message.ListFields():
        if field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE):
            continue
        for entry in value if field.is_repeated else [value]:
            if not (isinstance(entry, str) or (isinstance(entry, Message) and is_text(entry))):
                return False
    return True


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and every body of its If, Loop and Scan nodes."""
    yield graph
    yield from _bodies(graph.node)


def _bodies(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            for body in [attribute.g] * attribute.HasField("g") + list(attribute.graphs):
                yield from graphs_of(body)


def tensors_of(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor that the file stores, wherever it hides."""
    return _tensors_in(model)


def _tensors_in(message: Message) -> Iterator[TensorProto]:
    """By the fields of the format itself, so that no place is forgotten."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for entry in value if field.is_repeated else [value]:
                yield from _tensors_in(entry)


def is_external(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL


def load_external(tensors: Sequence[TensorProto], file: Path) -> None:
    """Read external `tensors` of the model `file`, from plain files inside its folder only."""
    folder = file.resolve().parent
    total = sum(_expected_bytes(tensor, file) for tensor in tensors)
    if total >= MAX_BYTES:
        raise AurepError(
            f"{file} keeps {total:,} bytes of weights in other files; only models below 2 GiB can be validated."
        )
    for tensor in tensors:
        fields = {entry.key: entry.value for entry in tensor.external_data}
        location = fields.get("location", "")
        if not _is_inside(folder, location):
            raise AurepError(
                f"{file} keeps tensor {tensor.name!r} in the external file {location[:100]!r}, which is not a plain "
                "file in the model's own folder; export the model as a single file."
            )
        tensor.raw_data = _external_bytes(tensor, fields, folder / location, file)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _is_inside(folder: Path, location: str) -> bool:
    source = folder / location
    try:
        inside = bool(location) and not Path(location).is_absolute() and source.resolve().is_relative_to(folder)
        return inside and not source.is_symlink() and source.is_file()
    except (OSError, ValueError, RuntimeError):  # no file can be named so: too long, a null character, circular links
        return False


def _external_bytes(tensor: TensorProto, fields: dict[str, str], source: Path, file: Path) -> bytes:
    length = _expected_bytes(tensor, file)
    try:
        offset, declared = int(fields.get("offset", "0")), int(fields.get("length", length))
    except ValueError:
        raise AurepError(f"{file}: tensor {tensor.name!r} has a malformed external reference; export again.") from None
    try:
        with open_plain(source) as stream:
            size = os.fstat(stream.fileno()).st_size
            if 0 <= offset <= size - length and declared == length:
                stream.seek(offset)
                return stream.read(length)
    except OSError as error:
        raise AurepError(f"{source} cannot be read: {error.strerror}; check its permissions.") from None
    raise AurepError(
        f"{file}: tensor {tensor.name!r} needs {length:,} bytes at {offset:,} of {source.name}, which has "
        f"{size:,}; export the model again."
    )


def check_tensor(tensor: TensorProto, file: Path) -> None:
    """Refuse a tensor of unknown type or impossible dimensions, or one that is a part of another."""
    if tensor.HasField("segment"):
        raise AurepError(f"{file}: tensor {tensor.name!r} is stored in segments; export the model again.")
    if any(dim < 0 for dim in tensor.dims):
        raise AurepError(f"{file}: tensor {tensor.name!r} has a negative dimension; export the model again.")
    if prod(float(dim) for dim in tensor.dims if dim) > MAX_EXTENT:  # floats, since the exact number may be endless
        raise AurepError(
            f"{file}: tensor {tensor.name!r} declares dimensions {_listed(tensor.dims)}, which no memory holds; the "
            "file is damaged, export or copy it again."
        )
    if tensor.data_type not in helper.get_all_tensor_dtypes():
        raise AurepError(f"{file}: tensor {tensor.name!r} is of an unknown data type; export again.")


def _listed(dims: Sequence[int]) -> str:
    return f"{list(dims[:8])}" if len(dims) <= 8 else f"{list(dims[:8])} and {len(dims) - 8:,} more"


def _expected_bytes(tensor: TensorProto, file: Path) -> int:
    if tensor.data_type == TensorProto.STRING:
        raise AurepError(f"{file}: tensor {tensor.name!r} holds texts as raw bytes; export the model again.")
    bits = 4 if tensor.data_type in _FOUR_BITS else helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * 8
    size: int = -(-prod(tensor.dims) * bits // 8)
    return size


def check_size(tensor: TensorProto, file: Path) -> None:
    """Refuse a tensor whose stored data does not fill the dimensions it declares, in the field of its type."""
    if tensor.HasField("raw_data"):
        expected, stored = _expected_bytes(tensor, file), len(tensor.raw_data)
        if expected != stored:
            raise AurepError(
                f"{file}: tensor {tensor.name!r} of dimensions {_listed(tensor.dims)} needs {expected:,} bytes but the "
                f"file holds {stored:,}; the file is damaged, export or copy it again."
            )
        return
    elements, own = prod(tensor.dims), helper.tensor_dtype_to_field(tensor.data_type)
    stored = len(getattr(tensor, own))
    packed = tensor.data_type in _FOUR_BITS and stored == -(-elements // 2)
    fits = packed or stored == elements * (2 if tensor.data_type in _COMPLEX else 1)
    if not fits or any(len(getattr(tensor, field)) for field in _TYPED_FIELDS if field != own):
        raise AurepError(
            f"{file}: tensor {tensor.name!r} declares dimensions {_listed(tensor.dims)} but the file holds {stored:,} "
            "values for it; the file is damaged, export or copy it again."
        )
