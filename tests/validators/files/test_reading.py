"""Broken and hostile files: one sentence, quickly, without allocating what they claim."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from aurep.errors import AurepError
from aurep.validators import count_relus, validate
from tests.validators import graphs


def truncated(path: Path) -> None:
    data = graphs.hybrid().model.SerializeToString()
    path.write_bytes(data[: len(data) // 2])


def huge_tensor(path: Path) -> None:
    model = graphs.hybrid().model
    graphs.initializer(model, "matrix").dims[0] = 2**50
    graphs.save(model, path)


def huge_typed_tensor(path: Path) -> None:
    model = graphs.hybrid().model
    tensor = TensorProto(name="big", data_type=TensorProto.FLOAT, dims=[2**40], float_data=[1.0])
    model.graph.initializer.append(tensor)
    graphs.save(model, path)


def huge_tensor_in_a_node(path: Path) -> None:
    model = graphs.body("c = Constant<value = float[1] {1.0}>() y = Add(x, c)")
    model.graph.node[0].attribute[0].t.dims[0] = 2**60
    graphs.save(model, path)


def negative_dimension(path: Path) -> None:
    model = graphs.hybrid().model
    graphs.initializer(model, "matrix").dims[0] = -1
    graphs.save(model, path)


SEGMENT = TensorProto.Segment(begin=0, end=1)


def planted(**fields: Any) -> Callable[[Path], object]:
    """A tensor beside those that the graph uses."""

    def plant(path: Path) -> None:
        model = graphs.hybrid().model
        model.graph.initializer.append(TensorProto(name="planted", **fields))
        graphs.save(model, path)

    return plant


def not_text(path: Path) -> None:
    """A name whose last byte no UTF-8 text holds."""
    model = graphs.hybrid().model
    model.graph.node[0].name = "a name to spoil"
    path.write_bytes(model.SerializeToString().replace(b"a name to spoil", b"a name to spoi\xe1"))


BROKEN: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("this is no model\n" * 40),
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
    "zeros": lambda path: path.write_bytes(bytes(5000)),
    "truncated": truncated,
    "no graph": lambda path: graphs.save(onnx.ModelProto(ir_version=8), path),
    "folder without a model": lambda path: path.mkdir(),
    "fifo": lambda path: os.mkfifo(path),
    "huge tensor": huge_tensor,
    "huge typed tensor": huge_typed_tensor,
    "huge tensor in a node": huge_tensor_in_a_node,
    "negative dimension": negative_dimension,
    "unknown type": planted(data_type=99, dims=[4], float_data=[1.0] * 4),
    "no type": planted(dims=[4], float_data=[1.0] * 4),
    "another type's field": planted(data_type=TensorProto.FLOAT, dims=[4], int32_data=[1] * 4),
    "huge and empty": planted(data_type=TensorProto.FLOAT, dims=[2**62, 2**62, 0]),
    "raw texts": planted(data_type=TensorProto.STRING, dims=[1], raw_data=bytes(8)),
    "not text": not_text,
    "segment": planted(data_type=TensorProto.FLOAT, dims=[4], float_data=[1.0] * 4, segment=SEGMENT),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    BROKEN[name](path)
    for use in (validate, count_relus):
        with pytest.raises(AurepError) as caught:
            use(path)
        message = str(caught.value)
        assert message.startswith(str(path))
        assert message.endswith(".")
        assert "\n" not in message


@pytest.mark.parametrize("cut", range(40, 2000, 97))
def test_no_truncation_is_a_traceback(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(graphs.hybrid().model.SerializeToString()[:cut])
    with suppress(AurepError):
        assert not validate(path).passed


def external(model: onnx.ModelProto, location: str, **fields: str) -> onnx.ModelProto:
    tensor = graphs.initializer(model, "matrix")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **fields}.items():
        tensor.external_data.add(key=key, value=value)
    return model


LOCATIONS = ["../secret", "/etc/passwd", "link", "absent", "folder", "", "a\0b", "long" * 2000]


@pytest.mark.parametrize("location", LOCATIONS, ids=[repr(location[:12]) for location in LOCATIONS])
def test_external_weights_stay_in_the_folder(location: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "folder").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(bytes(4 * 144 * 5))
    (home / "link").symlink_to(tmp_path / "secret")
    file = graphs.save(external(graphs.hybrid().model, location), home / "model.onnx")
    with pytest.raises(AurepError, match="not a plain file in the model's own folder"):
        validate(file)


@pytest.mark.parametrize("fields", [{"length": "9"}, {"offset": "-4"}, {"offset": "99999"}, {"offset": "many"}])
def test_external_references_must_fit(fields: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(4 * 144 * 5))
    file = graphs.save(external(graphs.hybrid().model, "data", **fields), tmp_path / "model.onnx")
    with pytest.raises(AurepError, match="export"):
        validate(file)


@pytest.mark.parametrize("claimed", [True, False])
def test_external_weights_beside_the_model_are_read(claimed: bool, tmp_path: Path) -> None:
    """torch's default; aurep writes one file, so that a file which claims to be aurep's must be one."""
    made = graphs.hybrid()
    (tmp_path / "data").write_bytes(graphs.initializer(made.model, "matrix").raw_data)
    external(made.model, "data")
    if claimed:
        graphs.stamp(made.model, graphs.claim(made))
    report = validate(graphs.save(made.model, tmp_path / "model.onnx"), budget=20)
    assert ["structure"] * claimed == [check.name for check in report.checks if not check.passed]
    assert "other files" in (report.checks[0].hint if claimed else " ".join(report.notes))


def test_a_functions_default_is_a_tensor_of_the_file(tmp_path: Path) -> None:
    """External data there would be read from wherever the program was started."""
    model = graphs.parse(
        "g (float[N, 4] x) => (float[N, 4] y) { y = evil.F(x) }"
        '<domain: "evil", opset_import: ["" : 17]> F (a) => (b) { b = Identity(a) }'
    )
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="absent")
    model.functions[0].attribute_proto.append(onnx.helper.make_attribute("value", tensor))
    with pytest.raises(AurepError, match="not a plain file in the model's own folder"):
        validate(graphs.save(model, tmp_path / "model.onnx"))


def test_an_opset_that_no_integer_holds_is_refused(tmp_path: Path) -> None:
    model = graphs.hybrid().model
    model.opset_import[0].version = 2**40
    report = validate(graphs.save(model, tmp_path / "model.onnx"), budget=10**6)
    assert not report.passed
    assert "opset" in next(check.hint for check in report.checks if check.name == "relu-count")


def test_an_absurd_shape_costs_no_more_than_the_limits(tmp_path: Path) -> None:
    """A graph that would allocate a terabyte."""
    lines = "s = Constant<value_ints = [65536, 65536, 64]>() z = ConstantOfShape(s) t = ReduceSum<keepdims = 0>(z) "
    file = graphs.save(graphs.body(lines + "y = Add(x, t)"), tmp_path / "model.onnx")
    with pytest.raises(AurepError, match=r"refused, because while .* memory"):
        validate(file, budget=0)


def test_an_absurd_site_costs_no_more_than_the_limits(tmp_path: Path) -> None:
    """Its elements would be followed one by one."""
    lines = '["act/Neg"] n = Mul(x, x) ["act/Relu"] y = Add(n, x)'
    file = graphs.save(graphs.body(lines, shape="N, 4, 1048576, 1048576"), tmp_path / "model.onnx")
    with pytest.raises(AurepError, match=r"refused, because while following the site 'act' .* memory"):
        validate(file, budget=0)
