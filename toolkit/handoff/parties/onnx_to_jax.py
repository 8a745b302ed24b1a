"""An ONNX graph as a JAX function: the operators that convolutional networks with hybrid activations are made of.

Values that are NumPy arrays are known when the function is traced (indices, shapes, public coefficients); the others
are traced, and secret under SPU. Padding of average pools counts in or out as ONNX says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax import lax
from onnx import helper, numpy_helper

Attributes = Mapping[str, Any]


def evaluate(graph: onnx.GraphProto, values: dict[str, Any]) -> Any:
    """The graph's output, given its input and initializers in `values`."""
    for node in graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        given = [values[name] if name else None for name in node.input]
        if node.domain or node.op_type not in OPERATORS:
            raise ValueError(f"operator {node.domain}::{node.op_type} of node {node.name!r} has no translation to JAX")
        result = OPERATORS[node.op_type](given, attributes)
        values.update(zip(node.output, result if isinstance(result, list) else [result], strict=True))
    return values[graph.output[0].name]


def secret_names(graph: onnx.GraphProto) -> list[str]:
    """Initializers that are the model's weights: the factors and biases of its linear layers."""
    stored = {tensor.name for tensor in graph.initializer}
    read = [name for node in graph.node if node.op_type in LINEAR for name in node.input]
    return [name for name in dict.fromkeys(read) if name in stored]


LINEAR = ("Conv", "Gemm", "MatMul")


def _conv(given: Sequence[Any], attributes: Attributes) -> Any:
    x, weight = given[:2]
    rank = x.ndim - 2
    pads = attributes.get("pads", [0] * 2 * rank)
    result = lax.conv_general_dilated(
        x,
        weight,
        window_strides=attributes.get("strides", [1] * rank),
        padding=list(zip(pads[:rank], pads[rank:], strict=True)),
        rhs_dilation=attributes.get("dilations", [1] * rank),
        feature_group_count=attributes.get("group", 1),
    )
    return result if len(given) < 3 or given[2] is None else result + given[2].reshape(-1, *[1] * rank)


def _gemm(given: Sequence[Any], attributes: Attributes) -> Any:
    a = given[0].T if attributes.get("transA") else given[0]
    b = given[1].T if attributes.get("transB") else given[1]
    product = _scaled(a @ b, attributes.get("alpha", 1.0))
    bias = _scaled(given[2], attributes.get("beta", 1.0)) if len(given) > 2 else None
    return product if bias is None else product + bias


def _scaled(value: Any, factor: float) -> Any:
    return value if factor == 1 else value * np.float32(factor)


def _window(x: Any, attributes: Attributes) -> dict[str, Any]:
    rank = x.ndim - 2
    pads = attributes.get("pads", [0] * 2 * rank)
    return {
        "window_dimensions": (1, 1, *attributes["kernel_shape"]),
        "window_strides": (1, 1, *attributes.get("strides", [1] * rank)),
        "padding": [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)],
    }


def _average(given: Sequence[Any], attributes: Attributes) -> Any:
    window = _window(given[0], attributes)
    total = lax.reduce_window(given[0], np.float32(0), lax.add, **window)
    if attributes.get("count_include_pad", 0) or not any(attributes.get("pads", ())):
        return total * np.float32(1 / np.prod(attributes["kernel_shape"]))
    return total * (np.float32(1) / _counts(given[0].shape, window))


def _counts(shape: Sequence[int], window: Mapping[str, Any]) -> np.ndarray:
    """How many real elements each average is over."""
    with jax.ensure_compile_time_eval():
        return np.asarray(lax.reduce_window(jnp.ones(shape, jnp.float32), np.float32(0), lax.add, **window))


def _maximum(given: Sequence[Any], attributes: Attributes) -> Any:
    return lax.reduce_window(given[0], -np.float32(np.inf), lax.max, **_window(given[0], attributes))


def _mean(given: Sequence[Any], attributes: Attributes) -> Any:
    axes = attributes.get("axes") or (given[1].tolist() if len(given) > 1 else None)
    return jnp.mean(given[0], axis=None if axes is None else tuple(axes), keepdims=bool(attributes.get("keepdims", 1)))


def _reshape(given: Sequence[Any], attributes: Attributes) -> Any:
    x, shape = given[0], [int(dim) for dim in given[1]]
    return x.reshape([x.shape[i] if dim == 0 else dim for i, dim in enumerate(shape)])


def _flatten(given: Sequence[Any], attributes: Attributes) -> Any:
    axis = attributes.get("axis", 1)
    return given[0].reshape(int(np.prod(given[0].shape[:axis])), -1)


def _slice(given: Sequence[Any], attributes: Attributes) -> Any:
    x, starts, ends = given[:3]
    axes = given[3] if len(given) > 3 and given[3] is not None else np.arange(len(starts))
    steps = given[4] if len(given) > 4 and given[4] is not None else np.ones_like(starts)
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[int(axis)] = slice(int(start), int(end), int(step))
    return x[tuple(index)]


def _pad(given: Sequence[Any], attributes: Attributes) -> Any:
    x, pads = given[0], np.asarray(given[1]).tolist()
    if attributes.get("mode", b"constant") != b"constant" or len(pads) != 2 * x.ndim:
        raise ValueError("only Pad with constants along every axis has a translation to JAX")
    value = given[2] if len(given) > 2 and given[2] is not None else np.float32(0)
    return jnp.pad(x, list(zip(pads[: x.ndim], pads[x.ndim :], strict=True)), constant_values=value)


def _split(given: Sequence[Any], attributes: Attributes) -> list[Any]:
    axis = attributes.get("axis", 0)
    sizes = given[1].tolist() if len(given) > 1 else attributes["split"]
    return jnp.split(given[0], np.cumsum(sizes)[:-1].tolist(), axis=axis)


def _power(given: Sequence[Any], attributes: Attributes) -> Any:
    exponents = np.unique(np.asarray(given[1]))
    if exponents.size != 1 or exponents[0] != int(exponents[0]) or exponents[0] < 1:
        raise ValueError(f"Pow by {exponents} is no product of a fixed number of factors")
    result = given[0]
    for _ in range(int(exponents[0]) - 1):
        result = result * given[0]
    return result


def _clip(given: Sequence[Any], attributes: Attributes) -> Any:
    x = given[0]
    for bound, pick in zip(given[1:], (jnp.maximum, jnp.minimum), strict=False):
        x = x if bound is None else pick(x, bound)
    return x


OPERATORS: dict[str, Callable[[Sequence[Any], Attributes], Any]] = {
    "Constant": lambda given, a: numpy_helper.to_array(a["value"]),
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": lambda given, a: given[0] @ given[1],
    "Add": lambda given, a: given[0] + given[1],
    "Sub": lambda given, a: given[0] - given[1],
    "Mul": lambda given, a: given[0] * given[1],
    "Div": lambda given, a: given[0] / given[1],
    "Neg": lambda given, a: -given[0],
    "Pow": _power,
    "Relu": lambda given, a: jnp.maximum(given[0], np.float32(0)),
    "Max": lambda given, a: jnp.maximum(given[0], given[1]),
    "Clip": _clip,
    "Sigmoid": lambda given, a: jax.nn.sigmoid(given[0]),
    "AveragePool": _average,
    "GlobalAveragePool": lambda given, a: jnp.mean(given[0], axis=tuple(range(2, given[0].ndim)), keepdims=True),
    "MaxPool": _maximum,
    "ReduceMean": _mean,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Transpose": lambda given, a: jnp.transpose(given[0], a["perm"]),
    "Squeeze": lambda given, a: jnp.squeeze(given[0], tuple(given[1].tolist()) if len(given) > 1 else None),
    "Unsqueeze": lambda given, a: jnp.expand_dims(given[0], tuple(given[1].tolist())),
    "Slice": _slice,
    "Split": _split,
    "Pad": _pad,
    "Concat": lambda given, a: jnp.concatenate(given, axis=a["axis"]),
    "Gather": lambda given, a: jnp.take(given[0], given[1], axis=a.get("axis", 0)),
    "Identity": lambda given, a: given[0],
}
