"""`export`: one model in, one checked ONNX file or bundle out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import shape_inference
from torch import Tensor, nn

from aurep.errors import AurepError
from aurep.exporters.bundle import Contents, write_bundle
from aurep.exporters.capture import INPUT, OUTPUT, Batch, capture, example_batch, portable, recaptured, run_eager
from aurep.exporters.claims import claims_for, serialise, stamp, verify_saved
from aurep.exporters.lint import lint
from aurep.exporters.parity import check_parity
from aurep.exporters.passes import run_passes
from aurep.exporters.polynomial import functions_used
from aurep.exporters.quiet import quiet
from aurep.exporters.ranges import Calibration, certify
from aurep.exporters.site import Site, hybrid_nodes, name_sites, read_site
from aurep.exporters.targets import Target, find_target
from aurep.files import replacing
from aurep.metadata import InputClaim, Metadata, Origin

with quiet():
    import onnx_graphsurgeon as gs

Captured = dict[Batch, bytes]
Samples = tuple[NDArray[np.float32], NDArray[np.int64]]


def export(
    model: nn.Module,
    example_input: Tensor,
    path: str | Path,
    target: str = "onnx",
    *,
    batch: Batch | None = None,
    relu_budget: int | None = None,
    origin: Origin | None = None,
    samples: Samples | None = None,
    calibration: Calibration | None = None,
    secret_coefficients: bool = False,
    push_constants: bool = False,
    captured: Captured | None = None,
) -> Path:
    """Write `model` as ONNX for `target`, checked against the module itself.

    Args:
        model: a network from `aurep.prepare`, or any network: its own ReLUs are then exported as they are and count as
            kept. It is run in eval mode and left as it was.
        example_input: normalised float inputs (N, C, H, W) or (N, F), N >= 1.
        path: `NAME.onnx` for the file alone, anything else for a bundle folder.
        target: a name of `aurep.exporters.TARGETS`.
        batch: the batch the file takes: "dynamic" or a number; by default dynamic where the target allows it, else 1.
        relu_budget: elements that may stay ReLU; None: `origin`'s, or exactly what is kept.
        origin: how inputs are made, classes, accuracies, for the metadata.
        samples: (inputs, labels): normalised float32 inputs like `example_input`, and int64 labels, for the bundle.
        calibration: inputs that the sites' ranges are measured on for the range certificate, which needs 16;
            default: the samples.
        secret_coefficients: polynomial coefficients as initializers where the target would publish them.
        push_constants: constant terms of the sites are carried into later constants, a pass over the activations less
            for each site (target onnxruntime).
        captured: an empty dict to begin with, kept for exports of the same network with other masks, coefficients or
            targets: torch's exporter, which takes most of an export's time, then runs once for each batch.

    Returns:
        The path of the written ONNX file.

    Raises:
        AurepError: an unknown target, a model that the target or ONNX cannot take, a budget that is exceeded, a result
            that differs from the module, or a folder in the way that is no bundle.
    """
    chosen = find_target(target, secret_coefficients=secret_coefficients, push_constants=push_constants)
    rows = _check_batch(batch, chosen)
    example = _check_example(example_input)
    inputs, labels = _check_samples(samples, example)
    module = portable(model)
    run_eager(module, example)
    proto, sites = build(module, example, chosen, rows, captured)
    origin = origin or Origin()
    origin = origin if relu_budget is None else replace(origin, relu_budget=relu_budget)
    claim = origin.input or InputClaim(layout="NF" if example.dim() == 2 else "NCHW", shape=tuple(example.shape[1:]))
    metadata = claims_for(proto, sites, origin, claim, chosen)
    calibration = calibration or (Calibration(inputs) if samples is not None else None)
    if calibration is not None:
        ranges = certify(module, proto, sites, calibration, chosen.framework.fixed_point, rows)
        metadata = metadata.model_copy(update={"ranges": ranges})
    stamp(proto, metadata)
    data = serialise(proto)
    logits = check_parity(module, data, inputs, rows)
    given = Path(path)
    if given.suffix == ".onnx":
        return _write_file(given, data, metadata, chosen)
    contents = Contents(data, metadata, chosen, rows, inputs, logits, labels)
    return write_bundle(given, contents, lambda file: verify_saved(file, metadata, chosen))


def build(
    module: nn.Module, example: Tensor, target: Target, batch: Batch, captured: Captured | None = None
) -> tuple[onnx.ModelProto, list[Site]]:
    """The graph for `target` without metadata, and its sites."""
    graph = gs.import_onnx(_captured(module, example, batch, {} if captured is None else captured))
    strip(graph, batch)
    name_sites(graph)
    sites = [read_site(node) for node in hybrid_nodes(graph)]
    run_passes(graph, target)
    proto = to_proto(graph, target)
    lint(proto, target)
    return proto, sites


def _captured(module: nn.Module, example: Tensor, batch: Batch, captured: Captured) -> onnx.ModelProto:
    again = recaptured(captured[batch], module) if batch in captured else None
    if again is None:
        again = capture(module, example_batch(example, batch), batch)
        captured[batch] = again.SerializeToString()  # now: graphsurgeon renames tensors in place
    return again


def strip(graph: gs.Graph, batch: Batch) -> None:
    """Drop what torch wrote beside the graph (stack traces hold paths), and name the batch axis."""
    graph.doc_string, graph.name = "", "aurep"
    graph.producer_name, graph.producer_version = "aurep", ""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise AurepError(
            f"the model has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs in ONNX; expected one of each."
        )
    for node in graph.nodes:
        node.name = ""
    for tensor in (*graph.inputs, *graph.outputs):
        tensor.shape = ["batch" if batch == "dynamic" else batch, *tensor.shape[1:]]
    graph.inputs[0].name = INPUT


def to_proto(graph: gs.Graph, target: Target) -> onnx.ModelProto:
    """The ONNX model: functions attached (graphsurgeon would not know them), shapes inferred afresh."""
    graph.outputs[0].name = OUTPUT
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable) and tensor.name not in (INPUT, OUTPUT):
            tensor.shape = tensor.dtype = None  # torch's shapes carry its own names for the batch
    graph.ir_version = target.framework.ir_version
    with quiet():
        model: onnx.ModelProto = gs.export_onnx(graph)
    model.functions.extend(functions_used(model, target.framework.opset))
    model = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    _forget_constants(model.graph)
    return model


def _forget_constants(graph: onnx.GraphProto) -> None:
    """Drop the shapes of what is computed from initializers alone: a runtime does that once, when it loads the file."""
    fixed = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if fixed.issuperset(node.input):
            fixed.update(node.output)
    kept = [value for value in graph.value_info if value.name not in fixed]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _check_batch(batch: Batch | None, target: Target) -> Batch:
    if batch is None:
        return 1 if target.framework.fixed_batch else "dynamic"
    if batch == "dynamic" and target.framework.fixed_batch:
        raise AurepError(f"target {target.name} needs a fixed batch; give batch=1 or another number.")
    if batch != "dynamic" and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise AurepError(f"batch {batch!r} is neither a positive number nor 'dynamic'.")
    return batch


def _check_example(example: Tensor) -> Tensor:
    if not isinstance(example, Tensor) or example.dim() < 2 or not example.is_floating_point() or 0 in example.shape:
        found = f"{tuple(example.shape)} of {example.dtype}" if isinstance(example, Tensor) else type(example).__name__
        raise AurepError(f"the example input is {found}; expected a float tensor (N, C, H, W) or (N, F) with N >= 1.")
    return example.detach().to("cpu", torch.float32).contiguous()


def _check_samples(samples: Samples | None, example: Tensor) -> Samples:
    """Samples in float32 and int64; the example input without labels where none were given."""
    if samples is None:
        return example.numpy(), np.zeros(0, dtype=np.int64)
    inputs, labels = np.asarray(samples[0], dtype=np.float32), np.asarray(samples[1], dtype=np.int64)
    if inputs.shape[1:] != tuple(example.shape[1:]) or labels.shape not in (inputs.shape[:1], (0,)) or not len(inputs):
        raise AurepError(
            f"samples have inputs of shape {inputs.shape} and labels of shape {labels.shape}; expected "
            f"{('N', *example.shape[1:])} and ('N',) with N >= 1, or no labels."
        )
    return np.ascontiguousarray(inputs), labels


def _write_file(path: Path, data: bytes, metadata: Metadata, target: Target) -> Path:
    if path.is_dir():
        raise AurepError(
            f"{path} is a folder; give the name of a file, or of a bundle folder without the ending .onnx."
        )
    with replacing(path) as temporary:
        temporary.write_bytes(data)
        verify_saved(temporary, metadata, target)
    return path
