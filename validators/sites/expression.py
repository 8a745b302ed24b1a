"""Tensors whose every element is  r relu(x_s) + (c2 x_s + c1) x_s + c0  of one element x_s of a site's input.

Exporters write a site in several forms (gather, max with a floor, mask and multiply; Horner or powers). Evaluating the
nodes over these expressions recovers which element is what from all of them, without matching one spelling. Additions
of zero and products with one return the other operand's bits, so coefficients are recovered bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from aurep.validators.graph.facts import attributes

Floats = NDArray[np.float32]
FLOOR_NEVER = -3e38  # a floor at or below which Max changes nothing that fp32 can hold


class NotASiteError(Exception):
    """A group of nodes does not compute a hybrid activation."""


@dataclass(frozen=True)
class Expression:
    """Per-image tensor of `shape`; `source` (n,) indexes the flattened x; `terms` (4, n): c0, c1, c2 and r.

    `lowered`: some r relu(x_s) is a max(x_s, t) with another t than 0, as a site has it whose input stands for x - t.
    """

    shape: tuple[int, ...]
    source: NDArray[np.int64]
    terms: Floats
    lowered: bool = False

    @classmethod
    def identity(cls, shape: tuple[int, ...]) -> Expression:
        """x itself."""
        n = int(np.prod(shape, dtype=np.int64))
        terms = np.zeros((4, n), np.float32)
        terms[1] = 1
        return cls(shape, np.arange(n), terms)

    @property
    def is_identity(self) -> NDArray[np.bool_]:
        """(n,): where the element is x_s itself."""
        found: NDArray[np.bool_] = (self.terms == np.array([[0], [1], [0], [0]], np.float32)).all(0)
        return found

    @property
    def in_place(self) -> bool:
        return bool(np.array_equal(self.source, np.arange(self.source.size)))

    def rectified(self, where: NDArray[np.bool_] | None = None) -> Expression:
        """ReLU at `where`, everywhere by default. Only x itself may be rectified."""
        chosen = np.ones(self.source.size, bool) if where is None else where
        if not self.is_identity[chosen].all():
            raise NotASiteError("a ReLU is applied to something other than the site's input")
        terms = self.terms.copy()
        terms[1, chosen], terms[3, chosen] = 0, 1
        return replace(self, terms=terms)

    def reshaped(self, shape: tuple[int, ...]) -> Expression:
        if np.prod(shape, dtype=np.int64) != self.source.size:
            raise NotASiteError("a reshape crosses the batch")
        return replace(self, shape=shape)

    def taken(self, indices: NDArray[Any]) -> Expression:
        if len(self.shape) != 1 or indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
            raise NotASiteError("a gather does not index flattened elements")
        if indices.size and not -self.source.size <= indices.min() <= indices.max() < self.source.size:
            raise NotASiteError("a gather reaches beyond its tensor")
        return replace(self, shape=(indices.size,), source=self.source[indices], terms=self.terms[:, indices])

    def spread(self, constant: NDArray[Any]) -> Floats:
        """`constant`, broadcast to this tensor and flattened."""
        squeezed = constant
        while squeezed.ndim > len(self.shape) and squeezed.shape[0] == 1:
            squeezed = squeezed[0]
        try:
            return np.broadcast_to(squeezed, self.shape).reshape(-1).astype(np.float32, copy=False)
        except ValueError:
            raise NotASiteError("a constant does not fit the site's shape") from None

    def scaled(self, constant: NDArray[Any]) -> Expression:
        return replace(self, terms=_times(self.terms, self.spread(constant)[None]))

    def shifted(self, constant: NDArray[Any]) -> Expression:
        terms = self.terms.copy()
        terms[0] = _plus(terms[0], self.spread(constant))
        return replace(self, terms=terms)

    def floored(self, constant: NDArray[Any]) -> Expression:
        """max(self, constant), where the constant is a number (0: a ReLU; NaN: unknown) or no bound at all."""
        floor = self.spread(constant)
        idle = floor <= FLOOR_NEVER
        if np.isposinf(floor).any():
            raise NotASiteError("a floor is no number")
        return replace(self.rectified(~idle), lowered=self.lowered or bool(floor[~idle].any()))

    def plus(self, other: Expression) -> Expression:
        self._check_aligned(other)
        return replace(self, terms=_plus(self.terms, other.terms))

    def times(self, other: Expression) -> Expression:
        """Product of two polynomials whose degrees sum to 2 at most."""
        self._check_aligned(other)
        a, b = self.terms, other.terms
        if a[3].any() or b[3].any():
            raise NotASiteError("a ReLU is multiplied by the site's input")
        product = np.zeros_like(a)
        for i in range(3):
            for j in range(3):
                term = np.where((a[i] != 0) & (b[j] != 0), _times(a[i], b[j]), np.float32(0))
                if i + j < 3:
                    product[i + j] = _plus(product[i + j], term)
                elif term.any():
                    raise NotASiteError("a polynomial is of a degree above 2")
        return replace(self, terms=product)

    def where(self, condition: NDArray[Any], other: Expression) -> Expression:
        self._check_aligned(other)
        chosen = self.spread(condition).astype(bool)
        return replace(self, terms=np.where(chosen[None], self.terms, other.terms))

    def _check_aligned(self, other: Expression) -> None:
        if self.shape != other.shape or not np.array_equal(self.source, other.source):
            raise NotASiteError("two different arrangements of the site's input are combined")
        if self.lowered or other.lowered:
            raise NotASiteError("a maximum with another number than 0 is combined with something")


def concatenated(parts: list[Expression]) -> Expression:
    if any(len(part.shape) != 1 or part.lowered for part in parts):
        raise NotASiteError("a concatenation is not of flattened elements, as they are or rectified at 0")
    source = np.concatenate([part.source for part in parts])
    return Expression((source.size,), source, np.concatenate([part.terms for part in parts], axis=1))


def _plus(a: Floats, b: Floats) -> Floats:
    with np.errstate(all="ignore"):
        return np.where(a == 0, b, np.where(b == 0, a, a + b))


def _times(a: Floats, b: Floats) -> Floats:
    with np.errstate(all="ignore"):
        return np.where(a == 1, b, np.where(b == 1, a, a * b))


_UNARY: dict[str, Callable[[Expression], Expression]] = {
    "Relu": Expression.rectified,
    "Identity": lambda e: e,
}


def apply(node: onnx.NodeProto, arguments: list[Any], shape_of_output: Any) -> Expression:
    """One standard operator on expressions and constant arrays."""
    op, settings = node.op_type, attributes(node)
    first = arguments[0] if arguments else None
    given = [a for a in arguments if isinstance(a, Expression)]
    constants = [a for a in arguments if isinstance(a, np.ndarray)]
    if op in _UNARY and len(given) == 1:
        return _UNARY[op](given[0])
    if op in ("Flatten", "Reshape") and isinstance(first, Expression):
        return first.reshaped(shape_of_output())
    if op == "Gather" and isinstance(first, Expression) and settings.get("axis") == 1 and constants:
        return first.taken(constants[0])
    if op == "Concat" and settings.get("axis") == 1 and len(given) == len(arguments):
        return concatenated(given)
    if op == "Where" and len(given) == 2 and constants:
        return given[0].where(constants[0], given[1])
    if op == "Pow" and isinstance(first, Expression) and constants and np.all(constants[0] == 2):
        return first.times(first)
    if op == "Max" and len(given) == len(constants) == 1:
        return given[0].floored(constants[0])
    if op in ("Add", "Mul") and len(arguments) == 2 and given:
        if len(given) == 2:
            return given[0].plus(given[1]) if op == "Add" else given[0].times(given[1])
        return given[0].shifted(constants[0]) if op == "Add" else given[0].scaled(constants[0])
    raise NotASiteError(f"{op} is no part of a hybrid activation")
