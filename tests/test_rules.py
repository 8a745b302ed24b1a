"""Every named rule of every framework: a graph that breaks it, found by the rules, by export's linter and by
validate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from aurep import AurepError
from aurep.cli import main
from aurep.exporters import TARGETS
from aurep.exporters.lint import lint
from aurep.frameworks import common, crypten, find_faults, helayers, spu

FLOAT = np.float32
WINDOW = {"kernel_shape": [2, 2], "strides": [1, 1], "pads": [0, 0, 0, 0]}
CONV = {**WINDOW, "dilations": [1, 1], "group": 1}
WEIGHT = {"w": np.ones((2, 2, 2, 2), FLOAT)}
Node = onnx.NodeProto


def constant(name: str, value: Any) -> Node:
    return helper.make_node("Constant", [], [name], name, value=numpy_helper.from_array(np.asarray(value), name))


def bad(op: str, *inputs: str, **attributes: Any) -> Node:
    return helper.make_node(op, list(inputs), ["y"], "bad", **attributes)


def model(
    nodes: list[Node], stored: dict[str, Any] | None = None, shape: tuple[Any, ...] = (1, 2, 4, 4)
) -> onnx.ModelProto:
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (stored or {}).items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def leaky() -> onnx.ModelProto:
    node = bad("Relu", "x")
    node.metadata_props.add(key="file", value="/home/me/model.py")
    return model([node])


def calling() -> onnx.ModelProto:
    made = model([bad("Twice", "x", domain="ai.aurep")])
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    opsets = [helper.make_opsetid("", 17)]
    made.functions.append(helper.make_function("ai.aurep", "Twice", ["a"], ["b"], body, opsets))
    made.opset_import.append(helper.make_opsetid("ai.aurep", 1))
    return made


def tower(blocks: int) -> onnx.ModelProto:
    """`blocks` squares with a coefficient each: two products, one after the other."""
    nodes, last = [], "x"
    for i in range(blocks):
        nodes.append(helper.make_node("Mul", [last, "c"], [f"m{i}"]))
        nodes.append(helper.make_node("Mul", [f"m{i}", last], [f"s{i}"]))
        last = f"s{i}"
    return model([*nodes, bad("Add", last, "c")], {"c": np.ones((2, 1, 1), FLOAT)})


NORM = {name: np.ones(2, FLOAT) for name in ("scale", "b", "mean", "var")}
EVERYWHERE = {
    "fixed-shape": model([bad("Add", "x", "c")], {"c": np.ones(1, FLOAT)}, shape=("batch", 2, 4, 4)),
    "batch-norm": model([bad("BatchNormalization", "x", *NORM)], NORM),
    "node-metadata": leaky(),
    "function-call": calling(),
    "custom-operator": model([bad("Thing", "x", domain="com.example")]),
    "unknown-operator": model([bad("ScatterND", "x", "i", "u")]),
}
BROKEN: dict[str, list[tuple[str, onnx.ModelProto]]] = {
    "crypten": [
        *((rule, made) for rule, made in EVERYWHERE.items()),
        *(("unknown-operator", model([bad(op, "x")])) for op in ("Identity", "Split", "GatherND", "GatherElements")),
        *(("unknown-operator", model([bad(op, "x")])) for op in ("ScatterElements", "Pad", "ReduceSum", "Squeeze")),
        ("encrypted-integer", model([bad("Gather", "x", "i", axis=1)], {"i": np.array([0])})),
        ("encrypted-integer", model([bad("Mul", "x", "m")], {"m": np.array([True])})),
        ("secret-parameter", model([bad("Pow", "x", "two")], {"two": np.array(2, FLOAT)})),
        (
            "constant-value",
            model([helper.make_node("Constant", [], ["c"], "bad", value_float=2.0), bad("Add", "x", "c")]),
        ),
        ("input-twice", model([bad("Mul", "x", "x")])),
        ("constant-first", model([constant("c", FLOAT([2])), bad("Mul", "c", "x")])),
        ("constant-first", model([constant("c", FLOAT([2])), bad("Sub", "c", "x")])),
        ("concat-constant", model([constant("c", np.ones((1, 1, 4, 4), FLOAT)), bad("Concat", "x", "c", axis=1)])),
        *(
            (
                "explicit-attributes",
                model([bad("Conv", "x", "w", **{k: v for k, v in CONV.items() if k != gone})], WEIGHT),
            )
            for gone in CONV
        ),
        ("explicit-attributes", model([bad("Gemm", "x", "w", "b", alpha=1.0)])),
        ("explicit-attributes", model([bad("AveragePool", "x", kernel_shape=[2, 2])])),
        ("uneven-window", model([bad("Conv", "x", "w", **{**CONV, "pads": [0, 0, 1, 1]})], WEIGHT)),
        ("uneven-window", model([bad("Conv", "x", "w", **{**CONV, "pads": [0, 1, 0, 1]})], WEIGHT)),
        ("uneven-window", model([bad("AveragePool", "x", **{**WINDOW, "kernel_shape": [1, 2]})])),
        ("uneven-window", model([bad("MaxPool", "x", **{**WINDOW, "strides": [1, 2]})])),
        ("dilated-pool", model([bad("MaxPool", "x", **WINDOW, dilations=[2, 2])])),
        ("pads-left-out", model([bad("AveragePool", "x", **{**WINDOW, "pads": [1, 1, 1, 1]})])),
        ("axes-as-input", model([constant("a", [2, 3]), bad("ReduceMean", "x", "a")])),
        ("zero-in-shape", model([constant("s", [0, -1]), bad("Reshape", "x", "s")])),
        ("large-index", model([constant("i", [2**24]), bad("Gather", "x", "i", axis=1)])),
        ("open-slice", model([constant("s", [0]), constant("e", [-1]), bad("Slice", "x", "s", "e")])),
        ("half-clip", model([constant("low", FLOAT(0)), bad("Clip", "x", "low")])),
        ("gemm-bias", model([bad("Gemm", "x", "w", alpha=1.0, beta=1.0)])),
    ],
    "spu": [
        *((rule, made) for rule, made in EVERYWHERE.items()),
        ("unknown-operator", model([bad("GatherND", "x", "i")])),
        ("computed-parameter", model([helper.make_node("Shape", ["x"], ["s"], "s"), bad("Reshape", "x", "s")])),
        ("whole-power", model([bad("Pow", "x", "half")], {"half": np.array(0.5, FLOAT)})),
        ("explicit-pads", model([bad("MaxPool", "x", kernel_shape=[2, 2], auto_pad="SAME_UPPER")])),
    ],
    "helayers": [
        *((rule, made) for rule, made in EVERYWHERE.items() if rule != "node-metadata"),
        ("comparison", model([bad("Relu", "x")])),
        ("comparison", model([bad("MaxPool", "x", **WINDOW)])),
        ("unknown-operator", model([bad("Gather", "x", "i")])),
        ("unknown-operator", model([bad("GlobalAveragePool", "x")])),
        ("weight-initializer", model([constant("w", WEIGHT["w"]), bad("Conv", "x", "w", **CONV)])),
        ("kernel-shape", model([bad("Conv", "x", "w", strides=[1, 1])], WEIGHT)),
        ("one-axis", model([bad("ReduceMean", "x", axes=[2, 3])])),
        ("scalar-exponent", model([bad("Pow", "x", "two")], {"two": FLOAT([2])})),
        ("coefficient-shape", model([bad("Mul", "x", "c")], {"c": np.ones((1, 2, 1, 1), FLOAT)})),
        ("too-deep", tower(11)),
    ],
}
CASES = [(target, rule, made) for target, cases in BROKEN.items() for rule, made in cases]
NAMES = [f"{target}-{rule}-{number}" for number, (target, rule, _) in enumerate(CASES)]


@pytest.mark.parametrize(("target", "rule", "made"), CASES, ids=NAMES)
def test_the_rule_is_found_and_named(target: str, rule: str, made: onnx.ModelProto, tmp_path: Path) -> None:
    found = {fault.rule: fault for fault in find_faults(made, target)}
    assert rule in found
    assert found[rule].fix
    if rule not in ("fixed-shape", "encrypted-integer", "too-deep"):
        assert "node 'bad'" in found[rule].where
    with pytest.raises(AurepError, match=rf"target {target} cannot take this model: "):
        lint(made, TARGETS[target])
    file = tmp_path / "any.onnx"
    file.write_bytes(made.SerializeToString())
    result = CliRunner().invoke(main, ["validate", str(file), "--target", target, "--json", "-"])
    assert result.exit_code == 1
    assert f"[{rule}]" in result.stdout


def test_every_rule_has_a_graph_that_breaks_it() -> None:
    named = {
        "crypten": {rule[0] for rule in crypten._RULES} | {"encrypted-integer", "unknown-operator", "function-call"},
        "spu": {rule[0] for rule in spu._RULES} | {"unknown-operator", "function-call"},
        "helayers": {rule[0] for rule in helayers._RULES} | {"comparison", "too-deep", "unknown-operator"},
    }
    for target, rules in named.items():
        everywhere = {rule[0] for rule in common._RULES} - ({"node-metadata"} if target == "helayers" else set())
        assert rules | everywhere <= {rule for rule, _ in BROKEN[target]}


def test_a_sound_file_that_aurep_did_not_write_passes(tmp_path: Path) -> None:
    weights = {"w": np.ones((3, 2, 1, 1), FLOAT), "b": np.zeros(3, FLOAT)}
    conv = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1}
    sound = model([helper.make_node("Conv", ["x", "w", "b"], ["h"], "conv", **conv), bad("Relu", "h")], weights)
    sound.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 3, 4, 4)))
    file = tmp_path / "any.onnx"
    file.write_bytes(sound.SerializeToString())
    for target, status in (("crypten", 0), ("spu", 0), ("helayers", 1)):
        result = CliRunner().invoke(main, ["validate", str(file), "--target", target])
        assert result.exit_code == status, result.output
    assert (
        CliRunner().invoke(main, ["validate", str(file)]).exit_code == 1
    )  # no budget, no target: nothing to hold it against


@pytest.mark.parametrize("target", ["crypten", "spu", "helayers"])
def test_bounds_in_any_form_of_constant_are_read(target: str) -> None:
    """A Constant node may hold plain numbers instead of a tensor."""
    numbers = {"from": [0], "to": [1], "axes": [1]}
    bounds = [helper.make_node("Constant", [], [name], name, value_ints=value) for name, value in numbers.items()]
    found = find_faults(model([*bounds, bad("Slice", "x", "from", "to", "axes")]), target)
    assert not any(fault.rule == "open-slice" for fault in found)


def test_levels_are_those_that_helayers_plans() -> None:
    """One more than the products on the longest path, as its own planner says for such towers; SEAL has 21."""
    assert [helayers.levels(helayers.Graph(tower(n))) for n in (1, 5, 10, 11)] == [3, 11, 21, 23]
    assert not find_faults(tower(10), "helayers")
    (fault,) = find_faults(tower(11), "helayers")
    assert "needs 23 multiplicative levels, and HElayers with SEAL has 21" in str(fault)
