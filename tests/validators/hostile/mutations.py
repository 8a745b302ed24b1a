"""Honest files, and random damage to them: single bytes, and the structure of the graph."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from aurep.operators import operators
from tests.validators import graphs

Random = random.Random
Model = onnx.ModelProto

_NUMBERS = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 2**16, 2**31, 2**62, 2**63 - 1)
_OPERATORS = sorted(
    operators(
        "Relu Identity Neg Add Mul Max Where MatMul Conv Gather Concat Reshape Flatten Transpose Slice MaxPool Cast "
        "Shape Constant ConstantOfShape ReduceMax Squeeze Pow Clip Dropout BatchNormalization ScatterElements If Scan "
        "NoSuch"
    )
)
_ATTRIBUTES = sorted(operators("axis perm kernel_shape pads to value alpha training_mode body group reduction"))

# A residual block of a fixed batch with a pooling and a gate, none of which is a site.
BLOCK = """g (float[2, 4, 6, 6] x) => (float[2, 5] y) {
 [one] h = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, weight) ["a/Relu"] r = Relu(h)
 [two] s = Conv<kernel_shape = [1, 1]>(r, narrow) t = Add(s, x) u = BatchNormalization(t, n, n, n, n)
 [pool] p = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(u)
 m = GlobalAveragePool(p) [gate] q = Sigmoid(m) v = Mul(p, q) c = Concat<axis = 1>(v, p) f = Flatten<axis = 1>(c)
 [head] y = Gemm<transB = 1>(f, matrix, bias) }"""


def block() -> Model:
    rng = graphs.np.random.default_rng(3)
    return graphs.add_initializers(
        graphs.parse(BLOCK),
        weight=rng.normal(size=(4, 4, 3, 3)).astype("f4") / 4,
        narrow=rng.normal(size=(4, 4, 1, 1)).astype("f4") / 4,
        n=rng.uniform(0.5, 1, size=4).astype("f4"),
        matrix=rng.normal(size=(5, 72)).astype("f4"),
        bias=rng.normal(size=5).astype("f4"),
    )


HONEST: dict[str, Callable[[], Model]] = {
    "gather": lambda: graphs.hybrid("gather").model,
    "pushed": lambda: graphs.hybrid("pushed").model,
    "block": block,
}


def flipped(data: bytes, random: Random) -> bytes:
    """One to three bytes are others, or some are missing or twice there."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(changed) or 1)
        kind = random.randrange(6)
        if kind < 4 and changed:
            changed[at] ^= 1 << random.randrange(8)
        elif kind == 4:
            del changed[at : at + random.randint(1, 9)]
        else:
            changed[at:at] = changed[at : at + random.randint(1, 9)]
    return bytes(changed)


def mutated(model: Model, random: Random) -> Model:
    """`model` with one to three of `MUTATIONS` done to it."""
    for _ in range(random.randint(1, 3)):
        random.choice(MUTATIONS)(model, random)
    return model


def _nodes(model: Model, random: Random) -> Any:
    """The nodes of the graph, or of a function."""
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    return random.choice([body for body in bodies if len(body)] or [model.graph.node])


def _node(model: Model, random: Random) -> onnx.NodeProto:
    nodes = _nodes(model, random)
    return random.choice(nodes) if len(nodes) else onnx.NodeProto()


def _names(model: Model) -> list[str]:
    made = [name for node in model.graph.node for name in (*node.input, *node.output)]
    return [*made, *(tensor.name for tensor in model.graph.initializer), "x", "y", "absent", ""]


def drop_node(model: Model, random: Random) -> None:
    nodes = _nodes(model, random)
    if len(nodes):
        del nodes[random.randrange(len(nodes))]


def repeat_node(model: Model, random: Random) -> None:
    nodes = _nodes(model, random)
    copy = onnx.NodeProto()
    copy.CopyFrom(_node(model, random))
    if random.random() < 0.7:
        renamed = [f"{name}_again" for name in copy.output]
        copy.output[:] = renamed
    nodes.insert(random.randrange(len(nodes) + 1), copy)


def move_node(model: Model, random: Random) -> None:
    nodes = _nodes(model, random)
    drop = random.randrange(len(nodes)) if len(nodes) else None
    if drop is not None:
        copy = onnx.NodeProto()
        copy.CopyFrom(nodes[drop])
        del nodes[drop]
        nodes.insert(random.randrange(len(nodes) + 1), copy)


def rename_node(model: Model, random: Random) -> None:
    _node(model, random).name = random.choice(["", "act/Relu", "a/b/c", "act", "/x/y", "\n::error::", "\x00é"])


def change_operator(model: Model, random: Random) -> None:
    _node(model, random).op_type = random.choice(_OPERATORS)


def change_domain(model: Model, random: Random) -> None:
    _node(model, random).domain = random.choice(["", "ai.onnx", "ai.aurep", "evil", "com.microsoft"])


def change_input(model: Model, random: Random) -> None:
    _change_edge(_node(model, random).input, model, random)


def change_output(model: Model, random: Random) -> None:
    _change_edge(_node(model, random).output, model, random)


def _change_edge(edges: Any, model: Model, random: Random) -> None:
    kind = random.randrange(4)
    if kind == 0:
        edges.append(random.choice(_names(model)))
    elif len(edges) and kind == 1:
        del edges[random.randrange(len(edges))]
    elif len(edges):
        edges[random.randrange(len(edges))] = random.choice(_names(model))


def change_attribute(model: Model, random: Random) -> None:
    candidates = [node for node in model.graph.node if len(node.attribute)] or [_node(model, random)]
    node = random.choice(candidates)
    if not len(node.attribute) or random.random() < 0.2:
        name = random.choice(_ATTRIBUTES)
        value: Any = random.choice([1, -1, 1.5, "max", [1, 2], [0.5], random.choice(_NUMBERS)])
        node.attribute.append(helper.make_attribute(name, value))
        return
    attribute = random.choice(node.attribute)
    kind = random.randrange(5)
    if kind == 0:
        node.attribute.remove(attribute)
    elif kind == 1:
        attribute.type = random.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 14])
    elif kind == 2:
        attribute.name = random.choice(["axis", "value", "", "to", "ref"])
    elif kind == 3:
        attribute.ref_attr_name = random.choice(["", "axis", "absent"])
    elif len(attribute.ints):
        attribute.ints[random.randrange(len(attribute.ints))] = random.choice(_NUMBERS)
    else:
        attribute.i = random.choice(_NUMBERS)


def change_initializer(model: Model, random: Random) -> None:
    if not len(model.graph.initializer):
        return
    tensor = random.choice(model.graph.initializer)
    kind = random.randrange(7)
    if kind == 0:
        model.graph.initializer.remove(tensor)
    elif kind == 1:
        model.graph.initializer.append(tensor)
    elif kind == 2:
        tensor.name = random.choice(_names(model))
    elif kind == 3:
        tensor.data_type = random.randrange(24)
    elif kind == 4:
        tensor.raw_data = tensor.raw_data[: random.randrange(len(tensor.raw_data) + 1)]
    elif kind == 5 and tensor.raw_data:
        tensor.raw_data = flipped(tensor.raw_data, random)[: len(tensor.raw_data)]
    else:
        _change_dims(tensor.dims, random)


def change_interface(model: Model, random: Random) -> None:
    value = random.choice([*model.graph.input, *model.graph.output])
    dims = value.type.tensor_type.shape.dim
    kind = random.randrange(6)
    if kind == 0:
        value.name = random.choice(_names(model))
    elif kind == 1:
        value.type.tensor_type.elem_type = random.randrange(24)
    elif kind == 2:
        value.type.ClearField("tensor_type")
    elif kind == 3:
        copy = random.choice([model.graph.input, model.graph.output]).add()
        copy.CopyFrom(value)
    elif len(dims):
        dim = random.choice(dims)
        dim.dim_value = random.choice(_NUMBERS)
        if random.random() < 0.3:
            dim.dim_param = "M"


def change_versions(model: Model, random: Random) -> None:
    kind = random.randrange(4)
    if kind == 0:
        model.ir_version = random.choice([0, 3, 4, 8, 99, 2**62])
    elif kind == 1 and len(model.opset_import):
        random.choice(model.opset_import).version = random.choice([0, 1, 6, 9, 13, 18, 21, 2**40])
    elif kind == 2 and len(model.opset_import):
        del model.opset_import[random.randrange(len(model.opset_import))]
    elif len(model.functions):
        function = random.choice(model.functions)
        _change_names(random.choice([function.input, function.output, function.attribute]), random)


def _change_names(names: Any, random: Random) -> None:
    if len(names) and random.random() < 0.5:
        del names[random.randrange(len(names))]
    else:
        names.append(random.choice(["x", "y", "c0", "absent"]))


def _change_dims(dims: Any, random: Random) -> None:
    if len(dims) and random.random() < 0.7:
        dims[random.randrange(len(dims))] = random.choice(_NUMBERS)
    else:
        dims.append(random.choice(_NUMBERS))


MUTATIONS: Sequence[Callable[[Model, Random], None]] = (
    drop_node,
    repeat_node,
    move_node,
    rename_node,
    change_operator,
    change_domain,
    change_input,
    change_input,
    change_output,
    change_attribute,
    change_attribute,
    change_initializer,
    change_interface,
    change_versions,
)


def bundle(name: str, folder: Path) -> Path:
    """An honest bundle of `HONEST[name]`, with what it claims."""
    if name == "block":
        model = block()
        count = {"MaxPool": 4 * 9 * 8, "Relu": 144, "Sigmoid": 4}
        fields = {"sites": (), "relu_count": 148, "relu_budget": 148, "relu_total": 148, "comparisons": count}
        made = graphs.Hybrid(model, graphs.np.zeros(graphs.SHAPE, bool), graphs.np.zeros((4, 3), "f4"))
        return graphs.bundle(folder, made, graphs.claim(made, target="onnxruntime", **fields))
    made = graphs.hybrid(name)
    target, compared = ("onnx", {"Relu": 20}) if name == "gather" else ("onnxruntime", {"Max": 144})
    return graphs.bundle(folder, made, graphs.claim(made, target=target, comparisons=compared))
