"""Inputs that real images leave out: constant ones, large ones, and images at a ReLU's kink.

A file may be right on every sample and wrong where none goes: a floor that is not quite zero, a bound on values that
are never so large. An image at the kink is found on the line between two samples that some element of a ReLU tells
apart: halving the line keeps the element's sign different at its ends.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from aurep.data.drawn import disturbed
from aurep.validators.checks.tolerances import CONDITION_FACTOR, PARITY_SCALED
from aurep.validators.session import Session

Inputs = NDArray[np.float32]
LARGE = 4.0  # times a sample: so far out, squares of squares may be more than fp32 holds
LARGER = 1.5
_HALVINGS = 20
_KINKS = 3  # ReLUs, from the first to the last


def adversarial_inputs(model: onnx.ModelProto, samples: Inputs, provider: str) -> dict[str, Inputs]:
    """(1, ...) each, by what it is: one of every kind first. Raises CannotRunError."""
    first = samples[:1]
    made = {"zeros": np.zeros_like(first), f"a sample times {LARGE:g}": np.float32(LARGE) * first}
    relus = [node for node in model.graph.node if node.op_type == "Relu"]
    places = {round(i * (len(relus) - 1) / (_KINKS - 1)) for i in range(_KINKS)} if relus else set()
    chosen = [relus[at] for at in sorted(places)]
    for node in chosen[len(chosen) // 2 :] + chosen[: len(chosen) // 2]:
        found = _at_kink(model, node, samples, provider)
        if found is not None:
            made[f"the kink of {node.name or node.output[0]}"] = found
    made[f"a sample times {LARGER:g}"] = np.float32(LARGER) * first
    made["the largest value everywhere"] = np.full_like(first, samples.max())
    made["the smallest value everywhere"] = np.full_like(first, samples.min())
    return made


def _at_kink(model: onnx.ModelProto, node: onnx.NodeProto, samples: Inputs, provider: str) -> Inputs | None:
    """An image at which an element of `node` is next to 0; None where two samples tell none apart."""
    if len(samples) < 2:
        return None
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.node.append(helper.make_node("Identity", [node.input[0]], ["kink/input"]))
    probed.graph.output.append(helper.make_tensor_value_info("kink/input", TensorProto.FLOAT, None))
    session = Session(probed, provider)

    def at(image: Inputs) -> NDArray[np.float32]:
        values: NDArray[np.float32] = next(session.run_all(image))["kink/input"][:1]
        return values

    low, high = samples[:1], samples[1:2]
    signs = at(low) > 0
    apart = np.flatnonzero(signs != (at(high) > 0))
    if not len(apart):
        return None
    element = apart[len(apart) // 2]
    for _ in range(_HALVINGS):
        middle = (low + high) / np.float32(2)
        same = (at(middle) > 0).flat[element] == signs.flat[element]
        low, high = (middle, high) if same else (low, middle)
    return low


def allowed_error(session: Session, inputs: Inputs, spread: NDArray[np.float64]) -> Iterator[float]:
    """Per image, the scaled error that rounding may make: far from real images a network may be ill-conditioned, which
    shows in how far its own logits move when the input moves by `DISTURBANCE`."""
    logits, moved = session.run(inputs), session.run(disturbed(np.random.default_rng(0), inputs))
    for one, other in zip(logits, moved, strict=True):
        scale = np.maximum(spread, np.ptp(one) / 2)  # as the error is measured
        movement = float((np.abs(other - one).reshape(-1) / np.maximum(scale, 1e-30)).max(initial=0))
        yield max(PARITY_SCALED, CONDITION_FACTOR * movement)
