"""The range certificate, measured again: do the sites' inputs stay where it says, and does that mean what it says?

Bounds are per site and channel. What follows from them (`aurep.ranges`) is computed again, with the polynomials that
the graph really has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from aurep.frameworks import FixedPoint
from aurep.metadata import RangeClaim, SiteRange
from aurep.ranges import certified, columns, headroom_bits, largest_magnitude, polynomial_error
from aurep.validators.checks.tolerances import FRACTION_BITS, RANGE_ROUNDING
from aurep.validators.report import Check
from aurep.validators.session import Session
from aurep.validators.sites.recovery import RecoveredSite

Inputs = NDArray[np.float32]
Bounds = tuple[NDArray[np.float64], NDArray[np.float64]]  # least and largest, (C,) each
_LOW, _HIGH = "range/low/", "range/high/"


def check_range(
    model: onnx.ModelProto,
    sites: Mapping[str, RecoveredSite],
    claim: RangeClaim,
    inputs: list[Inputs],
    form: FixedPoint | None,
    provider: str,
    fraction_bits: int | None = None,
) -> Check:
    """`inputs` are real ones, each (n, ...); `fraction_bits` what the fixed-point check found to be enough."""
    shared = comparable(sites, claim)
    seen = measure(probe(model, shared, provider), shared, inputs)
    rows = [_row(row, shared[row.name], seen[row.name], form) for row in claim.sites if row.name in shared]
    problems = [problem for row in rows for problem in row.pop("problems")]
    bits = _claimed_bits(claim, form)
    if bits is not None and fraction_bits is not None and bits + FRACTION_BITS < fraction_bits:
        problems.append(f"{bits} fraction bits are said to keep the logits, but that takes {fraction_bits}.")
    images = sum(len(given) for given in inputs)
    out = [row for row in rows if row["beyond"] > 0]
    measured = f"{len(out)} of {len(rows)} sites left"
    allowed = f"0, certified on {claim.images:,} images"
    least = min((row["headroom_bits"] for row in rows if row["headroom_bits"] is not None), default=None)
    room = "" if least is None else f"; at least {least:.1f} bits of head-room in every site"
    worst = max((row["polynomial_error"] for row in rows), default=0.0)
    hint = f"On {images:,} images{room}; polynomials within {worst:.2g} of ReLU on the certified range."
    if out:
        problems.append("Train on such inputs, or export again with more calibration images.")
    return Check("range", measured, allowed, not problems, " ".join(problems) or hint, {"sites": rows})


def comparable(sites: Mapping[str, RecoveredSite], claim: RangeClaim) -> dict[str, RecoveredSite]:
    """The sites whose inputs the certificate speaks of."""
    return {row.name: sites[row.name] for row in claim.sites if _comparable(sites.get(row.name), row)}


def beyond(claim: RangeClaim, seen: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> float:
    """How far inputs leave what is certified of a site, over that site's certified width: the largest of all sites.

    0 within, and infinite where an input is no number.
    """
    found = [0.0]
    for row in claim.sites:
        if row.name in seen:
            (low, high), (least, most) = certified(row.low, row.high), seen[row.name]
            excess = np.maximum(low.min() - least.min(), most.max() - high.max()) / max(high.max() - low.min(), 1e-30)
            found.append(float(excess) if np.isfinite(excess) else np.inf)
    return max(found)


def probe(model: onnx.ModelProto, sites: Mapping[str, RecoveredSite], provider: str) -> Session:
    """What `measure` runs. Raises CannotRunError."""
    return Session(_probed(model, sites), provider)


def measure(session: Session, sites: Iterable[str], inputs: Iterable[Inputs]) -> dict[str, Bounds]:
    """Bounds of every site's input over `inputs`, by site. Raises CannotRunError."""
    found: dict[str, Bounds] = {}
    for given in inputs:
        for outputs in session.run_all(given):
            for name in sites:
                low, high = (outputs[kind + name].astype(np.float64) for kind in (_LOW, _HIGH))
                before = found.get(name, (low, high))
                found[name] = np.minimum(before[0], low), np.maximum(before[1], high)
    return found


def _probed(model: onnx.ModelProto, sites: Mapping[str, RecoveredSite]) -> onnx.ModelProto:
    """`model` with outputs (C,): the least and largest input of each site."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    opset = next(entry.version for entry in made.opset_import if entry.domain in ("", "ai.onnx"))
    for name, site in sites.items():
        axes = [axis for axis in range(len(site.shape) + 1) if axis != 1]
        for kind, op in ((_LOW, "ReduceMin"), (_HIGH, "ReduceMax")):
            given: dict[str, Any] = {"axes": axes} if opset < 18 else {}
            extra = [] if opset < 18 else [f"{kind}axes/{name}"]
            for stored in extra:
                made.graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), stored))
            made.graph.node.append(helper.make_node(op, [site.input, *extra], [kind + name], keepdims=0, **given))
            made.graph.output.append(helper.make_tensor_value_info(kind + name, TensorProto.FLOAT, site.shape[:1]))
    return made


def _claimed_bits(claim: RangeClaim, form: FixedPoint | None) -> int | None:
    """Fraction bits that are claimed to be enough in `form`."""
    bits = claim.fraction_bits
    if form is None or bits is None or bits.ring != form.ring:
        return None
    return bits.probabilistic if form.truncation == "probabilistic" else bits.deterministic


def _comparable(site: RecoveredSite | None, row: SiteRange) -> bool:
    """A pushed site's tensors lack constants that its module's inputs have."""
    return site is not None and site.moved is None and bool(site.shape) and len(row.low) == site.shape[0]


def _row(row: SiteRange, site: RecoveredSite, seen: Bounds, form: FixedPoint | None) -> dict[str, Any]:
    low, high = certified(row.low, row.high)
    excess = np.maximum(low - seen[0], seen[1] - high)
    channel = int(np.argmax(np.where(np.isfinite(excess), excess, np.inf)))
    beyond = float(excess[channel] / max(high[channel] - low[channel], 1e-30))
    wide = columns(low, site.shape), columns(high, site.shape)
    error = float((polynomial_error(site.coefficients, *wide) * ~site.mask).max(initial=0))
    room = None if form is None else headroom_bits(largest_magnitude(site.coefficients, *wide), form)
    problems = []
    if not beyond <= 0:
        problems.append(
            f"{row.name}, channel {channel}: inputs reach from {seen[0][channel]:.4g} to {seen[1][channel]:.4g}, "
            f"certified are {low[channel]:.4g} to {high[channel]:.4g}: {beyond:.0%} of that width beyond."
        )
    if error > row.polynomial_error * (1 + RANGE_ROUNDING):
        problems.append(
            f"{row.name}: the polynomial is {error:.4g} off ReLU on that range, said are {row.polynomial_error:.4g}."
        )
    return {
        "name": row.name,
        "measured": [min(row.low), max(row.high)],
        "certified": [float(low.min()), float(high.max())],
        "seen": [float(seen[0].min()), float(seen[1].max())],
        "quantiles": list(row.quantiles),
        "beyond": max(beyond, 0.0) if np.isfinite(beyond) else float("inf"),
        "channel": channel,
        "headroom_bits": room,
        "polynomial_error": error,
        "problems": problems,
    }
