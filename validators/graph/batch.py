"""The batch of a model: what the file fixes, and the facts of everything at some sizes of it.

Axis 0 of an input is taken for its batch. Whether a count may be divided by it, the graph decides (see `batching`).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import cached_property

import onnx

from aurep.validators.graph.alike import Tensor
from aurep.validators.graph.facts import Fact, UncountableError
from aurep.validators.graph.infer import type_fact
from aurep.validators.graph.walk import Walk

UNFIXED = 2  # images that a dynamic batch is looked at with; an axis of 1 would broadcast
UNHEARD_OF = 2**30  # images: no batch is as large; below twice that, 2^31 - 1 still says "to the end" of a slice


class Walks:
    """What is known of the tensors of `model`, found out once for all that ask: sites, counts, estimates.

    Every one of these takes a model, or its walks where there are any.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._walked: dict[frozenset[tuple[str, str]], Walk | UncountableError] = {}

    @classmethod
    def of(cls, given: onnx.ModelProto | Walks) -> Walks:
        return given if isinstance(given, Walks) else cls(given)

    @cached_property
    def fixed(self) -> int | None:
        """`fixed_batch`. Raises UncountableError."""
        return fixed_batch(self.model)

    @cached_property
    def batches(self) -> tuple[int, ...]:
        """The batches that are looked at: the fixed one, or five that show how things grow with a dynamic one."""
        if self.fixed is not None:
            return (self.fixed,)
        return (1, UNFIXED, 3, 4 + secrets.randbelow(60), UNHEARD_OF + secrets.randbelow(UNHEARD_OF))

    @property
    def batch(self) -> int:
        """That which `facts` holds at."""
        return self.batches[self.at]

    @property
    def at(self) -> int:
        """Its index."""
        return 0 if self.fixed is not None else self.batches.index(UNFIXED)

    @cached_property
    def facts(self) -> dict[str, Fact]:
        """Facts of the main graph's tensors. Raises UncountableError."""
        at = self.at
        return {name: tensor.facts[at] for name, tensor in self.walk().found.items()}

    def walk(self, pointwise: Mapping[str, str] | None = None) -> Walk:
        """At all `batches`; `pointwise`: see `Walk`. Raises UncountableError."""
        key = frozenset((pointwise or {}).items())
        if key not in self._walked:
            walk = Walk(self.model, dict(key), dynamic=self.fixed is None)
            try:
                walk.run({value.name: self._input(value) for value in model_inputs(self.model)})
                self._walked[key] = walk
            except UncountableError as error:
                self._walked[key] = error
        found = self._walked[key]
        if isinstance(found, UncountableError):
            raise found
        return found

    def _input(self, value: onnx.ValueInfoProto) -> Tensor:
        return Tensor(tuple(_input_fact(value, batch) for batch in self.batches), len(self.batches))


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
