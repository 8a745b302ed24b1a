"""What a hand-over measured, from what the parties reported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aurep.errors import AurepError
from aurep.handoff.network import LAN, WAN

Row = dict[str, Any]


@dataclass(frozen=True)
class Logits:
    """Decrypted logits against the bundle's own: errors absolute, and over the largest logit; agreement in 0..1."""

    max_error: float
    scaled_error: float
    top1_agreement: float


@dataclass(frozen=True)
class Predicted:
    """What the simulation of fixed point said of the same logits; `wraps_per_image`: see `aurep.truncation`."""

    max_error: float
    scaled_error: float
    wraps_per_image: float


@dataclass(frozen=True)
class Traffic:
    """What one inference (of the file's batch) moves.

    Attributes:
        sent: bytes that each party sent.
        weight_opening: bytes that each party sent to open the masked secret weights, whatever the activations are; None
            where the protocol has no such part that could be told apart.
        rounds: see `Framework.rounds`.
    """

    sent: tuple[int, ...]
    weight_opening: tuple[int, ...] | None
    rounds: int

    @property
    def total(self) -> int:
        return sum(self.sent)

    @property
    def opening(self) -> int:
        return sum(self.weight_opening or ())

    @property
    def activations(self) -> int:
        """All but the opening of weights."""
        return self.total - self.opening


@dataclass(frozen=True)
class Measurement:
    """One hand-over. Bytes and rounds are per inference; `seconds` is the median one's, over loopback.

    Attributes:
        predicted: the logits' error as it was foreseen; None where the framework computes in no fixed point.
        once: bytes that each party sent once, before the first inference (sharing of the model, keys).
        nodes: what each part of the graph moved, as far as the framework tells.
    """

    bundle: str
    framework: str
    protocol: str
    python: str
    packages: tuple[str, ...]
    samples: int
    batch: int
    roles: tuple[str, ...]
    rounds_are: str
    logits: Logits
    traffic: Traffic
    once: tuple[int, ...] | None
    seconds: float
    total_seconds: float
    nodes: tuple[Row, ...] = ()
    predicted: Predicted | None = None

    def to_dict(self) -> Row:
        derived = {
            net.name.lower(): {
                "megabits_per_second": net.megabits,
                "round_trip_ms": net.round_trip_ms,
                "seconds": net.seconds(self.seconds, self.traffic.rounds, max(self.traffic.sent)),
            }
            for net in (LAN, WAN)
        }
        totals = {
            "total": self.traffic.total,
            "weight_opening_total": self.traffic.opening if self.traffic.weight_opening is not None else None,
            "activations_total": self.traffic.activations if self.traffic.weight_opening is not None else None,
        }
        plain = asdict(self)
        plain["traffic"].update(totals)
        return {**plain, "derived": derived}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"


def compare(found: NDArray[Any], expected: NDArray[np.float32]) -> Logits:
    """Raises AurepError where the parties' logits are not of the expected shape or not finite."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        raise AurepError(
            f"the parties computed logits of shape {found.shape}, {int(np.isfinite(found).sum())} of them finite; the "
            f"bundle has {expected.shape}. Values may have overflowed the fixed-point range: see `aurep validate`."
        )
    error = np.abs(found.astype(np.float64) - expected)
    return Logits(
        float(error.max()),
        float(error.max() / max(float(np.abs(expected).max()), 1e-30)),
        float((found.argmax(1) == expected.argmax(1)).mean()),
    )


def traffic_of(runs: Sequence[Sequence[Mapping[str, Any]]]) -> Traffic:
    """From every party's list of inferences, each with `bytes_sent`, `rounds` and perhaps `weight_opening`.

    The largest inference is reported; with secret sharing all are the same.
    """
    sent = tuple(int(max(run["bytes_sent"] for run in party)) for party in runs)
    opened = [max(run["weight_opening"] for run in party) for party in runs if "weight_opening" in party[0]]
    rounds = max(run["rounds"] for party in runs for run in party)
    return Traffic(sent, tuple(int(n) for n in opened) if opened else None, int(rounds))
