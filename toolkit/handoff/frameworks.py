"""The frameworks that `aurep handoff` drives: what to install, who takes part, which protocols there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aurep.errors import AurepError


@dataclass(frozen=True)
class Framework:
    """One framework, as its party program in `parties/` was tried with it.

    Args:
        name: as given on the command line, and the target that a bundle must be exported for.
        requirements: packages at the versions that the party program was tried with.
        alone: packages installed without what they ask for, because that would drag in other versions.
        pythons: minor versions of Python 3 that there are wheels for.
        modules: what must be importable for an environment to be called usable.
        roles: what each party is, per protocol; the first protocol is the default.
        opens_weights: protocols whose products open the masked weights, at 8 bytes an element from each party.
        rounds: what the number called rounds counts.
    """

    name: str
    requirements: tuple[str, ...]
    pythons: tuple[int, ...]
    modules: tuple[str, ...]
    roles: Mapping[str, tuple[str, ...]]
    alone: tuple[str, ...] = ()
    opens_weights: frozenset[str] = field(default_factory=frozenset)
    rounds: str = "rounds"

    def protocol(self, name: str | None) -> str:
        """The protocol called `name`, or the default. Raises AurepError where there is no such protocol."""
        known = {key.lower(): key for key in self.roles}
        if name is None:
            return next(iter(self.roles))
        if name.lower() not in known:
            raise AurepError(f"{self.name} has no protocol {name!r} here; choose one of {', '.join(self.roles)}.")
        return known[name.lower()]


_PAIR = ("model owner", "image owner")
_ALL = (
    Framework(
        "crypten",
        (
            "torch==2.13.0",
            "numpy==2.4.6",
            "onnx==1.23.2",
            "omegaconf==2.4.0",
            "pyyaml==6.0.3",
            "future==1.0.0",
            "scipy==1.17.1",
        ),
        (11, 12, 13),
        ("torch", "onnx", "omegaconf", "scipy", "yaml"),
        {"Beaver": _PAIR},
        alone=("crypten==0.4.1",),
        opens_weights=frozenset({"Beaver"}),
    ),
    Framework(
        "spu",
        ("spu==0.9.5", "jax==0.4.34", "jaxlib==0.4.34", "numpy==1.26.4", "onnx==1.23.2", "protobuf==7.36.2"),
        (10, 11),
        ("spu", "jax", "onnx"),
        {"SEMI2K": _PAIR, "ABY3": (*_PAIR, "helper"), "CHEETAH": _PAIR},
        opens_weights=frozenset({"SEMI2K"}),
        rounds="messages sent one after the other by one party, at most",
    ),
    Framework(
        "helayers",
        ("pyhelayers==1.5.5.4", "numpy==2.4.6"),
        (11, 12, 13),
        ("pyhelayers",),
        {"CKKS": _PAIR},
    ),
)
FRAMEWORKS: dict[str, Framework] = {framework.name: framework for framework in _ALL}


def find_framework(name: str) -> Framework:
    """Raises AurepError where aurep drives no framework of that name."""
    if name not in FRAMEWORKS:
        raise AurepError(f"there is no framework {name!r}; choose one of {', '.join(FRAMEWORKS)}.")
    return FRAMEWORKS[name]
