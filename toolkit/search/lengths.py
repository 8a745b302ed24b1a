"""What papers state per step or per epoch, at a search of any length.

Under Adam an indicator moves by about its rate in every step, whatever the size of its gradient, so over a search it
can travel about  rate x steps.  A search of fewer steps than the published one reaches as far with a rate larger by
the ratio. Steps shall not become as long as the way: the rate grows twentyfold at most, and in searches so short
that this would not take every indicator well through zero, by no more than that needs. And what happens once per
published epoch happens as many times in any search, evenly spread over its steps.

Adam's averages reach back over some 10 and 1,000 of the published steps. With the rate grown and their reach as it was,
all indicators would run on past the budget together by momentum, and what pulls them back would be measured against
the gradients of long ago. So their reach shrinks as the rate grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

PUBLISHED_STEPS = 200 * 352  # epochs of 45,000 images in batches of 128
_LARGEST_RATIO = 20.0
_LEAST_STEPS = 3_120  # of the published length, whose way every search allows for


def stretched(rate: float, steps: int) -> float:
    """The rate of indicators in a search of `steps`, given the published one's."""
    return rate * _ratio(steps)


def indicator_group(indicators: Sequence[nn.Parameter], rate: float, steps: int) -> dict[str, Any]:
    """The optimiser group of `indicators` in a search of `steps`; `rate` as published."""
    reach = max(_ratio(steps), 1.0)
    betas = (1 - min(0.1 * reach, 1.0), 1 - min(0.001 * reach, 0.1))
    return {"params": list(indicators), "lr": stretched(rate, steps), "betas": betas}


def _ratio(steps: int) -> float:
    steps = max(steps, 1)
    return min(PUBLISHED_STEPS / steps, max(_LARGEST_RATIO, _LEAST_STEPS / steps))


def due(step: int, steps: int, times: int) -> bool:
    """Whether `step` of 1..`steps` is one of `times` that divide them evenly, the last step among them."""
    return step * times // steps > (step - 1) * times // steps
