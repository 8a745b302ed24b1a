"""Does the file compute what the eager model computes, and what ONNX says it means?"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from aurep.validators.checks.adversarial import adversarial_inputs, allowed_error
from aurep.validators.checks.inputs import Eager
from aurep.validators.checks.tolerances import LEAST_SPREAD, LOGIT_ROUNDING, MOST_APART, PARITY_SCALED, PARITY_TIE
from aurep.validators.files.samples import Samples
from aurep.validators.graph.batch import fixed_batch
from aurep.validators.report import Check
from aurep.validators.session import CannotRunError, Session
from aurep.validators.stages import stage

REFERENCE_IMAGES = 2  # of each kind: the reference evaluator is numpy: seconds an image for a large network
REFERENCE_ODD = 3  # and of inputs that are no images
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Difference:
    """Logits against expected ones, (n, classes) each.

    Attributes:
        maximum: largest absolute error.
        scaled: largest error of a class over its own spread (see `spread_of`).
        agreeing: images of the same top-1 class, ties (see `PARITY_TIE`) included.
    """

    maximum: float
    scaled: float
    agreeing: int
    images: int

    @property
    def passed(self) -> bool:
        return self.scaled <= PARITY_SCALED and self.agreeing == self.images


def spread_of(logits: Logits, least: float = LEAST_SPREAD) -> NDArray[np.float64]:
    """(classes,): half of what each class's logit moves over images; of one image alone, half of what its logits do.

    A class whose logit is huge, or has a huge constant, hides no error of the others. But a class that images hardly
    move is held to no finer scale than `least` of a logit's usual size: its own last bits move by more.
    """
    if not logits.size:  # a graph that leaves nothing of its images
        return np.zeros(prod(logits.shape[1:]))
    wide = logits.astype(np.float64).reshape(len(logits), -1)
    with np.errstate(invalid="ignore"):  # what is not finite has failed already
        moved: NDArray[np.float64] = np.ptp(wide, axis=0) / 2
        if len(wide) == 1:
            moved = np.abs(wide[0]) if wide.shape[1] == 1 else np.full(wide.shape[1], np.ptp(wide) / 2)
        sizes = np.abs(wide).max(axis=0)
        usual = min(float(np.median(sizes)), MOST_APART * float(sizes[sizes > 0].min(initial=np.inf)))
    return np.maximum(moved, least * usual)


def difference(
    found: Logits, expected: Logits, spread: NDArray[np.float64] | None = None, negligible: float = LOGIT_ROUNDING
) -> Difference:
    """An error is infinite where shapes differ or a value is not finite, and none where there are no values.

    `spread`: of the classes, from more images than these; default: from `expected`.
    `negligible`: the share of a logit itself that no error is counted below.
    """
    images = len(expected)
    if found.shape != expected.shape or not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return Difference(np.inf, np.inf, 0, images)
    if not expected.size:
        return Difference(0.0, 0.0, images, images)
    wide, other = (logits.astype(np.float64).reshape(images, -1) for logits in (expected, found))
    scale = spread_of(expected) if spread is None else spread
    rounding = negligible * np.abs(wide)
    errors = np.abs(other - wide)
    beyond = np.maximum(errors - rounding, 0).max(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.where(beyond > 0, beyond / scale, 0)
    agreeing = _agreeing(other, wide, PARITY_TIE * scale + rounding)
    return Difference(float(errors.max()), float(scaled.max()), agreeing, images)


def _agreeing(found: NDArray[np.float64], expected: NDArray[np.float64], tie: NDArray[np.float64]) -> int:
    """Images whose top class of `found` is that of `expected`, or within `tie` (n, classes) of it there."""
    rows = np.arange(len(expected))
    top, chosen = expected.argmax(1), found.argmax(1)
    behind = expected[rows, top] - expected[rows, chosen]
    return int((behind <= np.maximum(tie[rows, top], tie[rows, chosen])).sum())


def check_parity(
    model: onnx.ModelProto,
    session: Session,
    samples: Samples,
    eager: Samples | None,
    run: Eager | None = None,
    own: NDArray[Any] | None = None,
) -> Check:
    """ONNX Runtime against the logits stored with the file, the eager model run afresh, and the ONNX reference.

    So too on `own` inputs (n, ...), which whoever wrote the file did not choose; an error there is measured against
    what the classes move there.

    And on inputs that no image is (`adversarial`), against the eager model `run`; without, a few of them against the
    reference.
    """
    found = session.run(samples.inputs)
    other = session.run(own) if own is not None else found[:0]
    spread = spread_of(found)
    results = {"the stored logits": difference(found, samples.logits, spread)}
    if eager is not None:
        results["the eager model"] = difference(found, eager.logits, spread)
    if own is not None and run is not None:
        results["the eager model on other images"] = difference(other, run(own), spread_of(other))
    few = min(REFERENCE_IMAGES, len(found), fixed_batch(model) or REFERENCE_IMAGES)
    problem = ""
    try:
        results["the ONNX reference"] = difference(found[:few], reference_logits(model, samples.inputs[:few]), spread)
        if own is not None:
            expected = reference_logits(model, own[:few])
            results["the ONNX reference on drawn images"] = difference(other[:few], expected, spread_of(other))
    except CannotRunError as error:
        problem = str(error)
    fits = found.shape[1:] == other.shape[1:]
    odd = _adversarial(
        model, session, samples.inputs, run, spread_of(np.concatenate([found, other])) if fits else spread
    )
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


def _adversarial(
    model: onnx.ModelProto, session: Session, inputs: Logits, run: Eager | None, spread: NDArray[np.float64]
) -> list[_Odd]:
    found = []
    try:
        made = adversarial_inputs(model, inputs, session.provider)
        some = list(made.items()) if run is not None else list(made.items())[:REFERENCE_ODD]
        allowed = list(allowed_error(session, np.concatenate([image for _, image in some]), spread))
        for (name, image), least in zip(some, allowed, strict=True):
            expected = run(image) if run is not None else reference_logits(model, image)
            if not np.isfinite(expected).all():
                continue  # beyond what fp32 holds there is nothing to agree on
            needed = difference(session.run(image), expected, np.maximum(spread, spread_of(expected))).scaled
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
