"""ReLU counts: the one vocabulary that training, exporters and validators share. No torch, no onnx.

An *element* is one scalar of one image's activation tensor. Under private inference every element that still passes
through a ReLU costs one comparison, so budgets, counts and totals are all in elements per image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from math import prod
from typing import Any

from aurep.errors import AurepError


@dataclass(frozen=True)
class ReluSite:
    """One call of an activation in the network's forward.

    Args:
        name: module path of the call, e.g. ``layer1.0.relu``; a second call of the same module is ``layer1.0.relu:1``.
        shape: activation shape without the batch, e.g. ``(64, 32, 32)``.
        kept: elements that stay ReLU, ``0 <= kept <= elements``.
        degree: degree of the polynomial that replaces the others (0 is the identity).
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    degree: int = 2

    @property
    def elements(self) -> int:
        return prod(self.shape)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "shape": list(self.shape),
            "elements": self.elements,
            "kept": self.kept,
            "degree": self.degree,
        }


@dataclass(frozen=True)
class ReluBudget:
    """How many ReLU elements a network may keep, and how many it has kept at which sites."""

    relu_budget: int
    sites: tuple[ReluSite, ...]

    @property
    def relu_count(self) -> int:
        return sum(site.kept for site in self.sites)

    @property
    def relu_total(self) -> int:
        return sum(site.elements for site in self.sites)

    @classmethod
    def of(cls, sites: Iterable[ReluSite], relu_budget: int | None = None) -> ReluBudget:
        """The budget of `sites`; without `relu_budget`, exactly what they keep."""
        listed = tuple(sites)
        return cls(sum(site.kept for site in listed) if relu_budget is None else relu_budget, listed)


_UNITS = {"k": Decimal(1_000), "m": Decimal(1_000_000)}


def parse_budget(text: str | int, total: int, name: str = "budget") -> int:
    """Read a budget as an element count.

    Args:
        text: ``12900``, ``"12900"``, ``"12.9k"``, ``"0.5M"`` or a percentage of `total` such as ``"10%"``
            (rounded down, so that it is never exceeded).
        total: activation elements of the model.
        name: what errors call it.

    Raises:
        AurepError: not a number, not whole, negative, or above `total`.
    """
    written = str(text).strip().lower().replace("_", "").replace(",", "")
    expected = "expected an element count such as 12900, 12.9k, or a share such as 10%"
    number, unit = (written[:-1], written[-1]) if written[-1:] in ("%", "k", "m") else (written, "")
    try:
        value = Decimal(number)
    except InvalidOperation:
        raise AurepError(f"{name} {text!r} is not a number; {expected}.") from None
    if not value.is_finite():
        raise AurepError(f"{name} {text!r} is not finite; {expected}.")
    value = value * total / 100 if unit == "%" else value * _UNITS.get(unit, Decimal(1))
    if unit != "%" and value != value.to_integral_value():
        raise AurepError(f"{name} {text!r} is not a whole number of elements; {expected}.")
    if value < 0:
        raise AurepError(f"{name} {text!r} is negative; the smallest is 0 (every activation a polynomial).")
    if value > total:
        raise AurepError(
            f"{name} {text!r} is above the model's {total:,} activation elements; lower it to at most that."
        )
    return int(value)
