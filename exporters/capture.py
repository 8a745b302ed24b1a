"""torch.export -> ONNX at opset 18, the lowest that torch writes by itself; `passes/lower_opset.py` goes on from there.

Always on the CPU and in float32: what a file holds must not depend on where or how a model was trained.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import onnx
import torch
from torch import Tensor, nn

from aurep.errors import AurepError
from aurep.exporters.quiet import quiet
from aurep.exporters.site import DOMAIN
from aurep.modes import evaluating

CAPTURE_OPSET = 18
INPUT, OUTPUT = "input", "logits"
Batch = int | Literal["dynamic"]


def portable(model: nn.Module) -> nn.Module:
    """`model` itself where it is float32 on the CPU, else a copy that is. A compiled model is unwrapped."""
    plain: nn.Module = getattr(model, "_orig_mod", model)
    tensors = [*plain.parameters(), *plain.buffers()]
    if any(t.device.type == "meta" for t in tensors):
        raise AurepError("the model has parameters without data (device meta); load its weights before exporting it.")
    if all(t.device.type == "cpu" and (t.dtype == torch.float32 or not t.is_floating_point()) for t in tensors):
        return plain
    return copy.deepcopy(plain).to("cpu", torch.float32)


def run_eager(model: nn.Module, x: Tensor, what: str = "") -> Tensor:
    """Logits of `model` in eval mode on `x`: the example input, or several of `what`.

    Raises AurepError unless they are one tensor with x's batch, all finite.
    """
    try:
        with evaluating(model), torch.no_grad():
            logits = model(x)
    except AurepError:
        raise
    except Exception as error:  # a user's forward raises anything
        raise AurepError(
            f"the model does not run on an input of shape {tuple(x.shape)}: {_first_line(error)}; give an example "
            "input as the model takes it."
        ) from error
    if not isinstance(logits, Tensor):
        raise AurepError(f"the model returns a {type(logits).__name__}; aurep exports models that return one tensor.")
    if logits.dim() < 1 or logits.shape[0] != x.shape[0]:
        raise AurepError(f"the model maps {tuple(x.shape)} to {tuple(logits.shape)}; the first axis must be the batch.")
    finite = torch.isfinite(logits).reshape(len(x), -1).all(1)
    if not finite.all():
        where = f"{int((~finite).sum())} of {len(x)} {what}" if what else "the example input"
        raise AurepError(
            f"the model's output on {where} is not finite; train it first, lower its degree, or, with its masks set, "
            'fit its polynomials with method="bounded".'
        )
    return logits


def example_batch(example: Tensor, batch: Batch) -> Tensor:
    """`example` repeated or cut to the batch to trace with. Torch specialises on 1, so `dynamic` takes at least 2."""
    rows = max(2, example.shape[0]) if batch == "dynamic" else batch
    repeats = -(-rows // example.shape[0])
    return torch.cat([example] * repeats)[:rows].contiguous()


def capture(model: nn.Module, example: Tensor, batch: Batch) -> onnx.ModelProto:
    """One ONNX node per operation, `ai.aurep::HybridActivation` per site, weights inside.

    Args:
        model: float32 on the CPU.
        example: (N, ...), as `example_batch` makes it.
        batch: the batch that the file is to take.

    Raises:
        AurepError: torch cannot export the model.
    """
    shapes: Any = None if batch != "dynamic" else ({0: torch.export.Dim.DYNAMIC},)
    try:
        with quiet(), evaluating(model), torch.no_grad():
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                opset_version=CAPTURE_OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=shapes,
                verbose=False,
            )
            if program is None:
                raise RuntimeError("no program was returned")
            proto: onnx.ModelProto = program.model_proto
    except AurepError:
        raise
    except Exception as error:  # torch's exporter raises anything, from what it traces and from itself
        advice = "; a model that fixes its batch size exports with batch=N" if batch == "dynamic" else ""
        raise AurepError(f"torch cannot export this model: {_first_line(error)}{advice}.") from error
    return proto


def recaptured(data: bytes, model: nn.Module) -> onnx.ModelProto | None:
    """What `capture` would give, of the `data` that it gave when only masks and coefficients of `model` were others.

    None where it takes a new capture: torch stores tensors that were equal once, and two sites may then share one.
    """
    again: onnx.ModelProto = onnx.ModelProto.FromString(data)
    stored = {tensor.name: tensor for tensor in again.graph.initializer}
    names = [name for node in again.graph.node if node.domain == DOMAIN for name in node.input[1:]]
    state = model.state_dict()
    if len(set(names)) < len(names) or not all(name in stored and name in state for name in names):
        return None
    for name in names:
        value = state[name].numpy()
        if tuple(stored[name].dims) != value.shape:
            return None
        stored[name].CopyFrom(onnx.numpy_helper.from_array(value, name))
    return again


def _first_line(error: BaseException) -> str:
    """The innermost cause in one line: torch wraps what happened in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:300]
