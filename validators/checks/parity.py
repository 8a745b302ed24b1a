"""Does the file compute what the eager model computes, and what ONNX says it means?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from aurep.validators.checks.adversarial import adversarial_inputs, allowed_error
from aurep.validators.checks.tolerances import PARITY_SCALED, PARITY_TIE
from aurep.validators.files.samples import Samples
from aurep.validators.graph.batch import fixed_batch
from aurep.validators.report import Check
from aurep.validators.session import CannotRunError, Session
from aurep.validators.stages import stage

REFERENCE_IMAGES = 2  # the reference evaluator is numpy: seconds an image for a large network
REFERENCE_ODD = 3  # and of inputs that are no images
Logits = NDArray[np.float32]
Eager = Callable[[NDArray[np.float32]], Logits]


@dataclass(frozen=True)
class Difference:
    """Logits against expected ones, (n, classes) each.

    Attributes:
        maximum: largest absolute error.
        scaled: that over the largest expected logit.
        agreeing: images of the same top-1 class, ties (see `PARITY_TIE`) included.
    """

    maximum: float
    scaled: float
    agreeing: int
    images: int

    @property
    def passed(self) -> bool:
        return self.scaled <= PARITY_SCALED and self.agreeing == self.images


def difference(found: Logits, expected: Logits) -> Difference:
    """An error is infinite where shapes differ or a value is not finite, and none where there are no values."""
    images = len(expected)
    if found.shape != expected.shape or not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return Difference(np.inf, np.inf, 0, images)
    if not expected.size:
        return Difference(0.0, 0.0, images, images)
    wide = expected.astype(np.float64)
    maximum = float(np.abs(found - wide).max(initial=0))
    scale = float(np.abs(wide).max(initial=0))
    ordered = np.sort(wide.reshape(images, -1), axis=1)
    margin = ordered[:, -1] - ordered[:, -2] if ordered.shape[1] > 1 else np.full(images, np.inf)
    same = found.reshape(images, -1).argmax(1) == wide.reshape(images, -1).argmax(1)
    agreeing = int((same | (margin <= PARITY_TIE * scale)).sum())
    return Difference(maximum, maximum / scale if scale else maximum, agreeing, images)


def check_parity(
    model: onnx.ModelProto, session: Session, samples: Samples, eager: Samples | None, run: Eager | None = None
) -> Check:
    """ONNX Runtime against the logits stored with the file, the eager model run afresh, and the ONNX reference.

    And on inputs that no image is (`adversarial`), against the eager model `run`; without, a few of them against the
    reference.
    """
    found = session.run(samples.inputs)
    results = {"the stored logits": difference(found, samples.logits)}
    if eager is not None:
        results["the eager model"] = difference(found, eager.logits)
    few = min(REFERENCE_IMAGES, len(found), fixed_batch(model) or REFERENCE_IMAGES)
    problem = ""
    try:
        results["the ONNX reference"] = difference(found[:few], reference_logits(model, samples.inputs[:few]))
    except CannotRunError as error:
        problem = str(error)
    odd = _adversarial(model, session, samples.inputs, run)
    worst = max(results.values(), key=lambda result: result.scaled)
    hint = "; ".join(_sentence(name, result) for name, result in results.items())
    problem = " ".join(filter(None, (problem, *(o.problem for o in odd))))
    passed = not problem and all(result.passed for result in results.values())
    if odd:
        hint += f"; scaled {max(o.needed for o in odd):.1e} on {', '.join(o.name for o in odd)}"
    hint += f". A tolerance of {worst.scaled:.1e} would have been enough."
    measured = f"scaled error {worst.scaled:.1e}, top-1 {min(r.agreeing / r.images for r in results.values()):.1%}"
    detail = {
        "needed_tolerance": worst.scaled,
        "adversarial": {o.name: o.needed for o in odd},
        "histogram": _histogram(found, samples.logits),
    }
    hint = " ".join(filter(None, (hint, problem)))
    return Check("parity", measured, f"{PARITY_SCALED:.0e}, 100%", passed, hint, detail)


@dataclass(frozen=True)
class _Odd:
    """One adversarial input: the tolerance it needs, and what is wrong with it, if anything."""

    name: str
    needed: float
    problem: str = ""


def _adversarial(model: onnx.ModelProto, session: Session, inputs: Logits, run: Eager | None) -> list[_Odd]:
    found = []
    try:
        made = adversarial_inputs(model, inputs, session.provider)
        some = list(made.items()) if run is not None else list(made.items())[:REFERENCE_ODD]
        allowed = list(allowed_error(session, np.concatenate([image for _, image in some])))
        for (name, image), least in zip(some, allowed, strict=True):
            expected = run(image) if run is not None else reference_logits(model, image)
            if not np.isfinite(expected).all():
                continue  # beyond what fp32 holds there is nothing to agree on
            needed = difference(session.run(image), expected).scaled
            problem = f"On {name} the scaled error is {needed:.1e}, allowed {least:.1e}." if needed > least else ""
            found.append(_Odd(name, needed, problem))
    except CannotRunError:
        return []  # samples show what does not run, with the reason
    return found


def _histogram(found: Logits, expected: Logits) -> dict[str, list[float]]:
    """How many logits are off by how much of the largest one: `edges` in powers of ten, and `counts`."""
    if found.shape != expected.shape or not found.size:
        return {"edges": [], "counts": []}
    off = np.abs(found.astype(np.float64) - expected) / max(float(np.abs(expected).max()), 1e-30)
    counts, edges = np.histogram(np.log10(np.clip(np.nan_to_num(off, nan=1.0), 1e-10, 1.0)), 20, (-10, 0))
    return {"edges": edges.tolist(), "counts": [int(count) for count in counts]}


def reference_logits(model: onnx.ModelProto, inputs: NDArray[np.float32]) -> Logits:
    """Logits of the ONNX reference evaluator. Raises CannotRunError."""
    logits: Logits = np.asarray(reference_outputs(model, inputs)[0])[: len(inputs)]
    return logits


def reference_outputs(model: onnx.ModelProto, inputs: NDArray[np.float32]) -> list[Any]:
    """All outputs of the ONNX reference evaluator; inputs are repeated to fill a fixed batch. Raises CannotRunError."""
    batch = fixed_batch(model)
    fed = inputs if batch is None else np.concatenate([inputs] * -(-batch // len(inputs)))[:batch]
    name = model.graph.input[0].name
    try:
        with np.errstate(all="ignore"), stage("while running the graph in the ONNX reference"):
            return list(ReferenceEvaluator(model).run(None, {name: fed}))
    except MemoryError:
        raise
    except Exception as error:  # the evaluator raises whatever its operators raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CannotRunError(f"The ONNX reference evaluator cannot run the model: {reason[:200]}.") from None


def _sentence(name: str, result: Difference) -> str:
    return (
        f"against {name} max abs {result.maximum:.1e}, scaled {result.scaled:.1e}, "
        f"top-1 {result.agreeing} of {result.images}"
    )
