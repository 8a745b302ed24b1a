"""What will go wrong in fixed point, said before the parties start: a run takes minutes, and drift is silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from aurep.frameworks import FixedPoint, Framework
from aurep.handoff.measurement import Predicted
from aurep.truncation import LOGITS_KEPT, Prediction
from aurep.validators.checks.fixed_point import FixedPointModel
from aurep.validators.checks.ranges import check_range
from aurep.validators.files.reading import Artefact
from aurep.validators.session import CannotRunError
from aurep.validators.sites.recovery import recover_sites

Images = NDArray[np.float32]
# Images of a hundred that may lose a value to a wrapping share before it is worth a word.
_WRAPS = 0.01


def foresee(
    artefact: Artefact, images: Images, framework: Framework, warned: Callable[[str], None]
) -> Predicted | None:
    """The error to expect on `images` (n, ...); None where the framework has no fixed point."""
    form = framework.fixed_point
    if form is None:
        return None
    try:
        found = FixedPointModel(artefact.model, "cpu").predict(images, form)
        for warning in (*_of_range(artefact, images, form), *_of_prediction(found, form)):
            warned(warning)
    except CannotRunError as error:
        warned(str(error))
        return None
    return Predicted(found.max_error, found.scaled_error, found.wraps)


def _of_range(artefact: Artefact, images: Images, form: FixedPoint) -> Iterator[str]:
    claim = artefact.metadata.ranges if artefact.metadata is not None else None
    if claim is not None:
        check = check_range(artefact.model, recover_sites(artefact.model), claim, [images], form, "cpu")
        if not check.passed:
            yield check.hint


def _of_prediction(found: Prediction, form: FixedPoint) -> Iterator[str]:
    if not found.peak < form.limit:
        yield (
            f"{found.where} reaches {found.peak:.3g}, but products wrap around at {form.limit:.3g} ({form.ring} bits, "
            f"{form.fraction} of them after the point): the logits will be noise."
        )
    elif found.scaled_error > LOGITS_KEPT:
        yield f"fixed point will move the logits by {found.scaled_error:.1%} of the largest."
    if found.wraps > _WRAPS:
        yield f"of 100 images, about {min(100 * found.wraps, 100):.2g} will lose a value while it is truncated."
