"""Compare the exported file with the eager module before anybody gets it.

The measure is the scaled error: max |file - eager| / max |eager|, over the example input and the samples.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from aurep.errors import AurepError
from aurep.exporters.capture import INPUT, Batch, run_eager
from aurep.exporters.quiet import quiet

Array = NDArray[np.float32]

# float32 rounds by 6e-8; folding batch norms and another order of summation move a sum of some thousand terms by
# about 1e-6 of its scale, and some twenty layers add up to 1e-5. A wrong mask, coefficient or pad moves logits by 1e-2
# or more.
SCALED_TOLERANCE = 1e-4
# Squaring activations doubles a relative error each time, so an ill-conditioned network cannot be met more closely
# than its own rounding: float32 against float64 of the same module. Eight covers another order of summation.
OWN_ROUNDING_FACTOR = 8.0


def check_parity(model: nn.Module, file: bytes, inputs: Array, batch: Batch) -> Array:
    """Logits of the eager module on `inputs` (N, ...), once the file agrees with them. Raises AurepError."""
    x = torch.from_numpy(inputs)
    eager: Array = run_eager(model, x, "samples").numpy()
    error = scaled_error(run_file(file, inputs, batch), eager)
    if error > SCALED_TOLERANCE:
        allowed = max(SCALED_TOLERANCE, OWN_ROUNDING_FACTOR * _own_rounding(model, x, eager))
        if not error <= allowed:
            raise AurepError(
                f"the exported graph differs from the model: scaled error {error:.2e}, allowed {allowed:.0e}; the "
                "model probably uses an operation that torch exports differently; please report it with its code."
            )
    return eager


def scaled_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """max |found - expected| / max |expected|; infinite where shapes differ or a value is not finite."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    difference = np.abs(found.astype(np.float64) - expected).max(initial=0.0)
    return float(difference / max(float(np.abs(expected).max(initial=0.0)), float(np.finfo(np.float32).tiny)))


def run_file(file: bytes, inputs: Array, batch: Batch) -> Array:
    """Logits of the exported graph, as onnxruntime computes it on the CPU without rewriting it.

    A file of fixed batch runs in pieces, the last one filled up with its own rows.
    """
    session = open_file(file)
    rows = len(inputs) if batch == "dynamic" else batch
    pieces = []
    for start in range(0, len(inputs), rows):
        piece = inputs[start : start + rows]
        whole = np.resize(piece, (rows, *piece.shape[1:]))
        pieces.append(session.run(None, {INPUT: whole})[0][: len(piece)])
    return np.concatenate(pieces)


def open_file(file: bytes) -> Any:
    """An onnxruntime session on the CPU that runs the graph as it stands."""
    with quiet():
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = torch.get_num_threads()
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _own_rounding(model: nn.Module, x: torch.Tensor, eager: Array) -> float:
    exact = run_eager(copy.deepcopy(model).double(), x.double()).numpy()
    return scaled_error(eager, exact)
