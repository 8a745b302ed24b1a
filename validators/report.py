"""What a validation found: checks, and the counts they were made on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self

Figure = str | int | float | None


@dataclass(frozen=True)
class Check:
    """One verdict.

    Attributes:
        name: ``structure``, ``relu-count``, ``relu-sites``, ``comparisons``, ``sites``, ``rounding``, ``parity``,
            ``accuracy``, ``fixed-point``, ``range`` or ``localise``.
        measured: what was found, with its unit where it is text.
        allowed: the bound it was held against.
        passed: whether it holds.
        hint: what was wrong and what to do, or by how much it passed; empty where nothing needs saying.
        detail: figures behind the verdict, by name, such as JSON has them.
    """

    name: str
    measured: Figure
    allowed: Figure
    passed: bool
    hint: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All checks of one file. Counts are None where the graph could not be counted.

    Attributes:
        relu_count: ReLU-like elements per image, counted from the graph.
        relu_total: activation elements per image, kept or replaced.
        relu_budget: what the count was held against; None for a file without a budget.
        relu_sites: places where ReLU-like elements are evaluated, counted from the graph.
        sites: per site `name`, `elements`, `kept`, `degree`, `shape`, recovered from the graph.
        comparisons: operator type -> elements compared per image.
        poolings: node -> those of them by max-pooling, which a budget of ReLUs does not bound.
        notes: what was not checked, and why.
        maps: per site of shape (C, H, W) the share of channels kept at each position, H rows of W.
        estimates: per protocol what an image costs, as `aurep inspect` gives it.
    """

    file: str
    version: str
    checks: tuple[Check, ...]
    target: str | None = None
    provider: str | None = None
    relu_count: int | None = None
    relu_total: int | None = None
    relu_budget: int | None = None
    relu_sites: int | None = None
    sites: tuple[dict[str, Any], ...] = ()
    comparisons: dict[str, int] = field(default_factory=dict)
    poolings: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    maps: dict[str, list[list[float]]] = field(default_factory=dict)
    estimates: tuple[dict[str, Any], ...] = ()

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, **asdict(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """What `to_dict` gave, after a way through JSON."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        del fields["passed"]
        return cls(**fields | {"checks": tuple(Check(**check) for check in data["checks"])})

    def to_json(self) -> str:
        """The stable machine interface: strict JSON, without NaN or infinities."""
        return json.dumps(_finite(self.to_dict()), indent=2, allow_nan=False) + "\n"


def json_schema() -> str:
    """The JSON Schema of `to_json`, as it ships in `report.schema.json`."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(Report).json_schema()
    schema["properties"] = {"passed": {"type": "boolean"}, **schema["properties"]}
    schema["required"] = ["passed", *schema["required"]]
    schema["additionalProperties"] = False
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


def _finite(value: Any) -> Any:
    """Numbers that JSON lacks, as text."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value
