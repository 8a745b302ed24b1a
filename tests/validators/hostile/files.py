"""Builders of files and bundles that crash, hang or blow up whoever believes them; each writes to a given path."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from aurep.metadata import InputClaim
from tests.validators import graphs

INT_MIN = -(2**63)
Builder = Callable[[Path], object]


def added(lines: str, opset: int = 17, shape: str = "N, 4, 6, 6") -> Builder:
    """A graph that adds the constant `z`, which `lines` compute, to its input."""
    return lambda path: graphs.save(graphs.body(f"{lines} y = Add(x, z)", opset=opset, shape=shape), path)


def digits(path: Path) -> None:
    """A bundle with a text of 60 equal digits, against an expression that has exponentially many ways to match them."""
    longer = "t = StringConcat(s, s) u = StringConcat(t, t) "
    lines = f"c = Constant<value_ints = [{'1' * 15}]>() s = Cast<to = 8>(c) {longer}"
    lines += 'm = RegexFullMatch<pattern = "([0-9]+)+x">(u) z = Cast<to = 1>(m) f = Flatten(x) y = Add(f, z)'
    path.mkdir()
    graphs.save(graphs.body(lines, opset=20, out="N, 144"), path / "model.onnx")
    images = np.zeros((2, 4, 6, 6), np.float32)
    np.savez(path / "samples.npz", inputs=images, logits=images.reshape(2, -1), labels=np.zeros(0, np.int64))


def einsum(path: Path) -> None:
    """A network of matrices between every two of eight indices of length 64: 64^8 products, in whatever order."""
    pairs = [a + b for a, b in combinations("abcdefgh", 2)]
    operands = ", ".join("v" for _ in pairs)
    lines = "n = Constant<value_ints = [64, 64]>() v = ConstantOfShape(n) "
    added(f'{lines} z = Einsum<equation = "{",".join(pairs)}->">({operands})')(path)


def products(path: Path) -> None:
    lines = "n = Constant<value_ints = [4096, 4096]>() c0 = ConstantOfShape(n) "
    lines += " ".join(f"c{i + 1} = MatMul(c{i}, c0)" for i in range(200))
    added(lines + " z = ReduceSum<keepdims = 0>(c200)")(path)


def million_digits(path: Path) -> None:
    """An input of 60,000 dimensions of 2^62: their product has more than a million digits."""
    model = graphs.body("y = Relu(x)")
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1] + [2**62] * 60_000))
    graphs.save(model, path)


def million_digits_stored(path: Path) -> None:
    model = graphs.hybrid().model
    model.graph.initializer.append(TensorProto(name="big", data_type=TensorProto.FLOAT, dims=[2**62] * 60_000))
    graphs.save(model, path)


def gigabyte_input(path: Path) -> None:
    lines = "p = GlobalAveragePool(x) y = Flatten(p)"
    graphs.save(graphs.body(lines, shape="1, 1, 16384, 16384"), path)


def external(path: Path, tensors: int, elements: int) -> None:
    """`tensors` tensors that share one sparse file."""
    model = graphs.hybrid().model
    for number in range(tensors):
        tensor = TensorProto(name=f"t{number}", data_type=TensorProto.FLOAT, dims=[elements])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="sparse")
        model.graph.initializer.append(tensor)
    path.mkdir()
    with (path / "sparse").open("wb") as stream:
        stream.truncate(4 * elements)
    graphs.save(model, path / "model.onnx")


def bundle_with(name: str, put: Callable[[Path], object]) -> Builder:
    """An honest bundle but for its file `name`, which `put` makes."""

    def build(path: Path) -> None:
        graphs.bundle(path)
        (path / name).unlink()
        put(path / name)

    return build


def samples_of(member: bytes, **others: bytes) -> Callable[[Path], object]:
    """An archive whose `inputs.npy` is `member`; `logits.npy` and `labels.npy` are sound."""

    def put(path: Path) -> None:
        sound = {"logits": array(np.zeros((1, 5), np.float32)), "labels": array(np.zeros(0, np.int64))}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, data in {"inputs": member, **sound, **others}.items():
                archive.writestr(f"{name}.npy", data)

    return put


def array(values: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def bomb(path: Path) -> None:
    """A samples.npz of a few hundred kilobytes that unfolds to 600 MB."""
    samples_of(header((1_000_000, 4, 6, 6)) + bytes(600_000_000))(path)


def large_bomb(path: Path) -> None:
    """A samples.npz of 6 MB that unfolds to 6 GB: zeros, deflated 16 MiB at a time, all alike."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = deflate.compress(header((10_500_000, 4, 6, 6))) + deflate.flush(zlib.Z_FULL_FLUSH)
    block = deflate.compress(bytes(2**24)) + deflate.flush(zlib.Z_FULL_FLUSH)
    count = -(-10_500_000 * 4 * 6 * 6 * 4 // 2**24)
    data = first + block * count + deflate.flush(zlib.Z_FINISH)
    entry = zipfile.ZipInfo("inputs.npy")
    entry.compress_type, entry.compress_size = zipfile.ZIP_DEFLATED, len(data)
    entry.file_size, entry.header_offset = len(header((10_500_000, 4, 6, 6))) + count * 2**24, 0
    entry.CRC = 0  # of 6 GB, which nobody reads
    with path.open("wb") as stream, zipfile.ZipFile(stream, "w") as archive:
        stream.write(entry.FileHeader(zip64=True) + data)
        archive.filelist.append(entry)
        archive.start_dir = stream.tell()
        archive.writestr("logits.npy", array(np.zeros((1, 5), np.float32)))
        archive.writestr("labels.npy", array(np.zeros(0, np.int64)))


def claiming(**fields: Any) -> Builder:
    """An honest bundle but for what it says of its inputs."""

    def build(path: Path) -> None:
        made = graphs.hybrid()
        graphs.bundle(path, made, graphs.claim(made, input=InputClaim(**fields)))

    return build


def with_metadata(key: str, text: str) -> Builder:
    def build(path: Path) -> None:
        model = onnx.load(graphs.bundle(path) / "model.onnx")
        next(entry for entry in model.metadata_props if entry.key == key).value = text
        graphs.save(model, path / "model.onnx")

    return build


def chain(path: Path, nodes: int) -> None:
    """One linear node after another."""
    lines = " ".join(f"v{i + 1} = Neg(v{i})" for i in range(nodes))
    graphs.save(graphs.body(f"v0 = Neg(x) {lines} y = Neg(v{nodes})"), path)


def long_site(path: Path, steps: int, side: int) -> None:
    """A site of side^2 elements that `steps` scalings make up: 24 bytes an element and step, if all are kept."""
    lines = '["act/0"] a0 = Relu(x) ' + " ".join(f'["act/{i + 1}"] a{i + 1} = Mul(a{i}, one)' for i in range(steps))
    model = graphs.body(f"{lines} [out] y = Identity(a{steps})", shape=f"N, 1, {side}, {side}")
    graphs.save(graphs.add_initializers(model, one=np.float32(1).reshape(())), path)
