"""Intervals of 95 % around accuracies, and around the difference of two that were measured on the same images.

One accuracy: Wilson's score interval (JASA 1927). With k of n right, p = k / n, z = 1.96:

    (p + z^2 / 2n  +-  z sqrt(p (1 - p) / n + z^2 / 4 n^2)) / (1 + z^2 / n)

A drop on the same images: only those count that one network gets right and the other wrong, b lost and c won. The
interval is that of Agresti and Min (Statistics in Medicine 2005), Wald's with half an image added to each of the four
outcomes; the p-value McNemar's exact one, that of b of b + c tosses of a fair coin. Networks that agree on most images
are so told apart by far fewer of them than two separate figures would take.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, lgamma, log, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Right = NDArray[np.bool_]  # per image, whether it was classified right
Z = 1.959964


@dataclass(frozen=True)
class Interval:
    """Percent, or points: an estimate and the ends of its interval."""

    value: float
    low: float
    high: float

    def at(self, by: Literal["estimate", "bound"]) -> float:
        """What an accuracy is held by."""
        return self.value if by == "estimate" else self.low

    def at_most(self, by: Literal["estimate", "bound"]) -> float:
        """What a drop is held by."""
        return self.value if by == "estimate" else self.high

    def __str__(self) -> str:
        return f"{self.value:.2f} (95 % interval {self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Drop:
    """Points below the accuracy `reference` of `of`; `lost` and `won` images and `p_value` where they were paired."""

    of: str
    reference: float
    interval: Interval
    lost: int | None = None
    won: int | None = None
    p_value: float | None = None

    def __str__(self) -> str:
        if self.p_value is None:
            return f"{self.interval} points below the {self.of} {self.reference:.2f} %, taken as exact"
        images = f"{self.lost:,} images lost, {self.won:,} won"
        verdict = "a real difference" if self.p_value < 0.05 else "within noise"
        return (
            f"{self.interval} points below the {self.of} {self.reference:.2f} % on the same images: {images}, McNemar "
            f"p = {self.p_value:.2g}, {verdict}"
        )

    def detail(self) -> dict[str, Any]:
        interval = self.interval
        return {
            "reference": self.reference,
            "drop": interval.value,
            "drop_interval": [interval.low, interval.high],
            "lost": self.lost,
            "won": self.won,
            "p_value": self.p_value,
        }


def proportion(right: Right) -> Interval:
    """Accuracy in percent, by Wilson."""
    n, p = len(right), float(right.mean())
    middle, half = p + Z**2 / (2 * n), Z * sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    scale = 100 / (1 + Z**2 / n)
    return Interval(100 * p, max(scale * (middle - half), 0.0), min(scale * (middle + half), 100.0))


def paired_drop(right: Right, reference: Right, of: str) -> Drop:
    """Points that `right` lies below `reference`, image by image."""
    n, lost, won = len(right), int((reference & ~right).sum()), int((right & ~reference).sum())
    b, c, m = lost + 0.5, won + 0.5, n + 2
    middle, half = (b - c) / m, Z * sqrt(max((b + c) - (b - c) ** 2 / m, 0.0)) / m
    interval = Interval(100 * (lost - won) / n, 100 * (middle - half), 100 * (middle + half))
    return Drop(of, 100 * float(reference.mean()), interval, lost, won, mcnemar(lost, won))


def mcnemar(lost: int, won: int) -> float:
    """Two-sided exact p-value."""
    n, k = lost + won, min(lost, won)
    logs = [lgamma(n + 1) - lgamma(i + 1) - lgamma(n - i + 1) - n * log(2) for i in range(k + 1)]
    return min(1.0, 2 * sum(exp(value) for value in logs))
