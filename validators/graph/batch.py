"""The batch of a model: what the file fixes, and the facts of everything at one size of it.

Axis 0 of an input is taken for its batch. Whether a count may be divided by it, the graph decides (see `batching`).
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from aurep.validators.graph.facts import Fact, UncountableError
from aurep.validators.graph.infer import type_fact
from aurep.validators.graph.walk import Walk

UNFIXED = 2  # images that a dynamic batch is looked at with; an axis of 1 would broadcast


def walk_at(
    model: onnx.ModelProto, batch: int, pointwise: Mapping[str, str] | None = None
) -> tuple[Walk, dict[str, Fact]]:
    """The walk over `model` at one batch size, and the facts of its tensors; `pointwise`: see `Walk`."""
    walk = Walk(model, pointwise or {}, dynamic=fixed_batch(model) is None)
    return walk, walk.run({value.name: _input_fact(value, batch) for value in model_inputs(model)})


def walk_once(model: onnx.ModelProto) -> tuple[dict[str, Fact], int]:
    """Facts of the main graph's tensors, and the batch they were taken at. Raises UncountableError."""
    batch = fixed_batch(model) or UNFIXED
    return walk_at(model, batch)[1], batch


def fixed_batch(model: onnx.ModelProto) -> int | None:
    """The rows of the first input that the file fixes (1 where it has none); None where they are dynamic.

    Raises:
        UncountableError: a dimension other than the batch is dynamic.
    """
    inputs = model_inputs(model)
    dynamic = False
    for value in inputs:
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
            raise UncountableError(
                f"input {value.name!r} declares no tensor shape, so nothing can be counted; export with static shapes."
            )
        if not value.type.tensor_type.shape.dim:
            raise UncountableError(f"input {value.name!r} is a single number, not a batch; export with a batch axis.")
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                continue
            if axis:
                raise UncountableError(
                    f"dimension {axis} of input {value.name!r} is dynamic, so the cost is unknown; "
                    "export with static shapes (only the batch may be dynamic)."
                )
            dynamic = True
    if dynamic:
        return None
    shape = type_fact(inputs[0].type).shape if inputs else ()
    return shape[0] if shape else 1


def model_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs that a caller feeds. Below IR 4, initializers are listed among the inputs without being one."""
    stored = {tensor.name for tensor in model.graph.initializer} if model.ir_version < 4 else set()
    return [value for value in model.graph.input if value.name not in stored]


def _input_fact(value: onnx.ValueInfoProto, batch: int) -> Fact:
    """What is known of an input that holds `batch` images."""
    tensor = value.type.tensor_type
    dims = (dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else batch for dim in tensor.shape.dim)
    shape = tuple(dims)
    return Fact(tensor.elem_type, shape, uniform=len(shape) == 4, rows=len(shape) > 1 and shape[0] == batch)
