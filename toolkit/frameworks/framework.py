"""What aurep knows of a framework: what it takes, how it computes, what it was measured to send, how it is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aurep.errors import AurepError
from aurep.frameworks.fault import Fault, Graph

# What a private inference is made of, per image; `aurep.validators.estimate` says what each is and counts them.
Unit = Literal["compared", "squares", "products", "scalings", "stored", "inputs", "patches", "weights", "outputs"]
# A party's log -> (per inference what it moved, what each operator moved), as `aurep.handoff` reports them.
ReadLog = Callable[[str], tuple[list[dict[str, Any]], list[dict[str, Any]]]]


@dataclass(frozen=True)
class FixedPoint:
    """A ring of `ring` bits with `fraction` of them after the point; `truncation` as `aurep.truncation` has it."""

    ring: int = 64
    fraction: int = 16
    truncation: Literal["deterministic", "probabilistic"] = "probabilistic"

    def __str__(self) -> str:
        return f"{self.ring}:{self.fraction}"

    @property
    def limit(self) -> float:
        """Magnitude at which a product wraps around before its truncation."""
        return 2.0 ** (self.ring - 1 - 2 * self.fraction)

    @classmethod
    def parse(cls, text: str) -> FixedPoint:
        """``64:16`` -> a ring of 64 bits with 16 fraction bits. Raises AurepError."""
        ring, _, fraction = text.partition(":")
        if not (ring.isdecimal() and fraction.isdecimal()) or not 0 < 2 * int(fraction) < int(ring) <= 128:
            raise AurepError(f"fixed point {text!r} is not RING:FRACTION with 2 * FRACTION < RING, such as 64:16.")
        return cls(int(ring), int(fraction))


@dataclass(frozen=True)
class Protocol:
    """One protocol of a framework.

    Args:
        name: the framework's own name for it.
        roles: what each party is.
        opens_weights: its products open the masked weights, at 8 bytes an element from each party.
        bytes_per: bytes on the wire, all parties together, per unit; None where no such figure holds.
        rounds_per: rounds per node that costs any of a unit; None where they are not known.
    """

    name: str
    roles: tuple[str, ...]
    opens_weights: bool = False
    bytes_per: Mapping[Unit, float] | None = None
    rounds_per: Mapping[Unit, int] | None = None


PAIR = ("model owner", "image owner")


@dataclass(frozen=True)
class Parties:
    """How `aurep handoff` runs the framework with its party program, `handoff/parties/NAME_party.py`.

    Args:
        requirements: packages at the versions that the party program was tried with.
        pythons: minor versions of Python 3 that there are wheels for.
        modules: what must be importable for an environment to be called usable.
        alone: packages installed without what they ask for, because that would drag in other versions.
        rounds: what the number called rounds counts.
        read_log: reads bytes and rounds from a party's log, where the party cannot report them itself.
    """

    requirements: tuple[str, ...]
    pythons: tuple[int, ...]
    modules: tuple[str, ...]
    alone: tuple[str, ...] = ()
    rounds: str = "rounds"
    read_log: ReadLog | None = None


@dataclass(frozen=True)
class Framework:
    """One framework, or a form of file that several run.

    Args:
        name: as targets and the command line have it.
        opset: ONNX operator set that is written for it.
        opsets: lowest and highest that it takes.
        ir_version: ONNX IR version that is written for it.
        ir_versions: lowest and highest that it takes.
        functions: its files may define functions of the domain ai.aurep.
        fixed_batch: it needs a static batch size.
        faults: what breaks its own rules in a graph; None where it takes whatever ONNX Runtime takes.
        fixed_point: what it holds numbers in, where that is fixed point.
        compares_everywhere: its files compare at every element of a site, whatever is kept: they save nothing, say so,
            and are held to the kept elements.
        pushes: its files may carry the constants of sites into what follows.
        protocols: the first is the default.
        parties: how it is run; None where `aurep handoff` does not run it.
    """

    name: str
    opset: int = 17
    opsets: tuple[int, int] = (13, 22)
    ir_version: int = 8
    ir_versions: tuple[int, int] = (7, 10)
    functions: bool = False
    fixed_batch: bool = True
    faults: Callable[[Graph], Iterator[Fault]] | None = None
    fixed_point: FixedPoint | None = None
    compares_everywhere: bool = False
    pushes: bool = False
    protocols: tuple[Protocol, ...] = ()
    parties: Parties | None = None

    def protocol(self, name: str | None) -> Protocol:
        """The protocol called `name`, in any case, or the default. Raises AurepError where there is none such."""
        if name is None:
            return self.protocols[0]
        for protocol in self.protocols:
            if protocol.name.lower() == name.lower():
                return protocol
        known = ", ".join(protocol.name for protocol in self.protocols)
        raise AurepError(f"{self.name} has no protocol {name!r} here; choose one of {known}.")

    def require_parties(self) -> Parties:
        """How it is run. Raises AurepError where `aurep handoff` does not run it."""
        if self.parties is None:
            raise AurepError(f"aurep has no party program for {self.name}, so `aurep handoff` cannot run it.")
        return self.parties
