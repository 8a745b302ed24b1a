"""Pushed sites: those that take z for an input x = z + K, and leave a constant K' that their output y' lacks of y.

K and K' are constants that nodes compute; K comes into the site, K' leaves it (K' is K where the site adds nothing to
it). The polynomials of z are other numbers than those of x,

    a x^2 + b x + c = (a z + b + 2 a K) z + K',   K' = c + K (b + a K),   max(x, 0) = max(z, -K) + K,

but with K = 0 they are the same, so the nodes are followed once as if K were 0, with K' then added: that must be the
site itself, bit for bit. And once as if K could be any number, since no two runtimes need compute the same K: which
elements are a maximum with a number, and the leading coefficients, no K may change. Whether the constants meet what
they belong to, only running the graph can tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from aurep.validators.sites.constants import Constants
from aurep.validators.sites.expression import Expression, NotASiteError


@dataclass(frozen=True)
class Moved:
    """`name` of K', and the constants of the graph `without` K, and for `any` K."""

    name: str
    without: Constants
    any: Constants

    @classmethod
    def of(cls, coming: Iterable[str], leaving: Iterable[str], constants: Constants) -> Moved:
        """At most one constant `coming` and one `leaving`, at least one of both."""
        names = list(coming)
        without, unknown = (constants.supposing(names, value) for value in (0.0, np.nan))
        return cls(next(iter([*leaving, *names])), without, unknown)


def unpushed(pushed: Expression, alone: Expression, moved: Moved) -> Expression:
    """The site itself, of what its nodes compute with any K and what they would compute `alone`, without one.

    Raises NotASiteError where K changes more than it may.
    """
    if pushed.shape != alone.shape or not np.array_equal(pushed.source, alone.source):
        raise NotASiteError("a constant that comes into a site rearranges it")
    straight = pushed.terms[2] == 0
    slopes = np.where(straight, pushed.terms[1], 0), np.where(straight, alone.terms[1], 0)
    if not np.array_equal(pushed.terms[2:], alone.terms[2:]) or not np.array_equal(*slopes):
        raise NotASiteError("a constant that comes into a site changes its mask or its leading coefficients")
    return alone.shifted(moved.without.value(moved.name))
