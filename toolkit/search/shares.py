"""A budget shared out among layers, in whole elements.

Water-filling: layer l of capacity c_l and weight w_l gets  r_l = min(c_l, k w_l),  with the one k for which the r_l sum
to the budget. Whole elements by largest remainder: every r_l is rounded down, and the elements left go, one each, to
the largest fractions (the earlier layer where two are equal).

Source: Kundu et al., "Learning to Linearize Deep Neural Networks for Secure and Efficient Private Inference" (SENet),
ICLR 2023, where w_l is the layer's ReLU sensitivity; w_l = c_l gives every layer the same share.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from aurep.errors import AurepError

_LEAST_WEIGHT = Fraction(1, 10**12)  # a layer of weight 0 gets elements only once all others are full


def water_fill(capacities: Sequence[int], weights: Sequence[float], budget: int) -> list[int]:
    """Elements per layer, at most its capacity, summing to `budget` exactly.

    Raises:
        AurepError: a negative weight, or a budget outside 0 to the sum of `capacities`.
    """
    if any(weight < 0 for weight in weights):
        raise AurepError(f"layer weights {list(weights)} are not all >= 0; a weight is a layer's sensitivity.")
    if not 0 <= budget <= sum(capacities):
        raise AurepError(f"budget {budget} is outside 0 to {sum(capacities)}, the layers' capacity.")
    exact = _real_shares(capacities, [max(Fraction(w), _LEAST_WEIGHT) for w in weights], budget)
    shares = [int(share) for share in exact]
    by_fraction = sorted(range(len(exact)), key=lambda layer: shares[layer] - exact[layer])
    for layer in by_fraction[: budget - sum(shares)]:
        shares[layer] += 1
    return shares


def _real_shares(capacities: Sequence[int], weights: Sequence[Fraction], budget: int) -> list[Fraction]:
    """min(c, k w) in exact arithmetic: layers fill up in the order of c / w."""
    shares = [Fraction(0)] * len(capacities)
    left, weight = Fraction(budget), sum(weights, Fraction(0))
    for layer in sorted(range(len(capacities)), key=lambda layer: capacities[layer] / weights[layer]):
        shares[layer] = min(Fraction(capacities[layer]), left * weights[layer] / weight)
        left -= shares[layer]
        weight -= weights[layer]
    return shares
