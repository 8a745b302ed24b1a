"""Does the network survive fixed point? MPC frameworks hold numbers as integers of a ring, with f fraction bits.

`aurep.truncation` has the arithmetic and how it is simulated. A graph that overflows on the samples, or whose classes
change, fails; the hint tells how far the logits are to be expected from exact ones, and what could be spared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import inliner

from aurep.errors import AurepError
from aurep.frameworks import FixedPoint
from aurep.ranges import headroom_bits
from aurep.truncation import LOGITS_KEPT, Prediction, fraction_bits, predict
from aurep.validators.checks.parity import difference
from aurep.validators.checks.tolerances import FIXED_POINT_AGREEMENT
from aurep.validators.graph.batch import Walks
from aurep.validators.report import Check
from aurep.validators.session import CannotRunError, Session

_TRIED = 16  # images from each place that fraction bits are tried on


class FixedPointModel:
    """A model that can be computed in fixed point. Raises CannotRunError where its graph cannot be rewritten."""

    def __init__(self, model: onnx.ModelProto, provider: str) -> None:
        try:
            self.plain = inliner.inline_local_functions(model)
            facts = Walks(self.plain).facts
        except (AurepError, RuntimeError) as error:
            raise CannotRunError(f"The graph cannot be rewritten in fixed point: {error}") from None
        floats = {name: fact for name, fact in facts.items() if fact.elem_type == onnx.TensorProto.FLOAT}
        self.tensors = {name for name, fact in floats.items() if name and not fact.constant}
        self.provider = provider

    def exact(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return Session(self.plain, self.provider).run(inputs)

    def predict(self, inputs: NDArray[np.float32], form: FixedPoint) -> Prediction:
        """What `form` makes of the logits."""
        exact = self.exact(inputs)
        return predict(self.plain, self.tensors, form, form.truncation, inputs, exact, self._run)

    def fraction_bits(self, inputs: NDArray[np.float32], form: FixedPoint) -> int | None:
        """The fewest that keep the logits of `inputs`, by `form`'s truncation."""
        return fraction_bits(self.plain, self.tensors, form, form.truncation, inputs, self.exact(inputs), self._run)

    def _run(self, simulated: onnx.ModelProto, inputs: NDArray[Any]) -> Iterator[Mapping[str, NDArray[Any]]]:
        return Session(simulated, self.provider).run_all(inputs)


def check_fixed_point(
    model: onnx.ModelProto, inputs: list[NDArray[np.float32]], form: FixedPoint, provider: str
) -> Check:
    """Largest magnitude and surviving classes over all `inputs`, (n, ...) from each place that they come from."""
    fixed = FixedPointModel(model, provider)
    whole = np.concatenate(inputs)
    found = fixed.predict(whole, form)
    fewest = fixed.fraction_bits(np.concatenate([given[:_TRIED] for given in inputs]), form)
    result = difference(found.logits, fixed.exact(whole))
    agreement = result.agreeing / result.images
    problems = []
    if not found.peak < form.limit:
        problems.append(
            f"{found.where} reaches {found.peak:.3g}, beyond what a {form.ring}-bit ring with {form.fraction} fraction "
            "bits multiplies; train with a range penalty, or use fewer fraction bits."
        )
    if agreement < FIXED_POINT_AGREEMENT:
        problems.append(
            f"Truncating to {form.fraction} fraction bits changes the class of {1 - agreement:.1%} of images."
        )
    detail = {
        "ring": form.ring,
        "fraction": form.fraction,
        "truncation": form.truncation,
        "max_error": found.max_error,
        "scaled_error": found.scaled_error,
        "headroom_bits": headroom_bits(found.peak, form),
        "fraction_bits": fewest,
        "wraps_per_image": found.wraps,
    }
    measured = f"max |value| {found.peak:.3g}, top-1 {agreement:.1%}"
    allowed = f"< {form.limit:.3g}, >= {FIXED_POINT_AGREEMENT:.0%}"
    hint = " ".join(problems) or _margins(found, form, fewest)
    return Check("fixed-point", measured, allowed, not problems, hint, detail)


def _margins(found: Prediction, form: FixedPoint, fewest: int | None) -> str:
    bits = f"{fewest} would keep them within {LOGITS_KEPT:.0%}" if fewest is not None else "none would keep them"
    return (
        f"{headroom_bits(found.peak, form):.1f} bits of head-room at {found.where}; logits move by "
        f"{found.scaled_error:.1e} of the largest with {form.fraction} fraction bits, {bits}; one image in "
        f"{1 / max(found.wraps, 1e-300):,.0g} loses a value to {form.truncation} truncation."
    )
