"""What an exported model claims about itself: the same facts in the ONNX `metadata_props` and in `budget.json`.

`Metadata` is the schema (its JSON Schema ships as `budget.schema.json`). Exporters write it, validators read it and
believe none of it: every field that can be measured is measured again from the graph.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aurep.errors import AurepError

if TYPE_CHECKING:
    import onnx

SCHEMA_VERSION = 1
PREFIX = "aurep."
Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Percent = Annotated[float, Field(ge=0, le=100)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SiteClaim(_Strict):
    """One activation site; digests as `mask_digest` and `coefficient_digest` compute them."""

    name: str
    shape: tuple[Annotated[int, Field(ge=1)], ...]
    elements: Count
    kept: Count
    degree: Literal[0, 1, 2]
    coefficients_sha256: Digest
    mask_sha256: Digest

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if self.elements != prod(self.shape) or self.kept > self.elements:
            raise ValueError(f"site {self.name}: {self.kept} of {self.elements} elements in shape {self.shape}")
        return self


class InputClaim(_Strict):
    """How an input is made: resized to `shape`, pixels scaled to `range`, then (x - mean) / std per channel.

    Resizing stretches, or, with `crop_pct`, covers shape / crop_pct and takes the centre.
    """

    layout: Literal["NCHW", "NF"] = "NCHW"
    shape: tuple[Annotated[int, Field(ge=1)], ...]  # without the batch
    range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    crop_pct: Annotated[float, Field(gt=0, le=1)] | None = None


class TrainingClaim(_Strict):
    """Where the weights come from. Accuracies in percent."""

    method: str | None = None
    model: str | None = None
    data: str | None = None
    seed: int | None = None
    width_multiplier: Annotated[float, Field(gt=0, lt=1)] | None = None  # share of the run's channels, if not all
    config_sha256: Digest | None = None
    val_accuracy: Percent | None = None
    test_accuracy: Percent | None = None
    teacher_val_accuracy: Percent | None = None
    teacher_test_accuracy: Percent | None = None


Number = Annotated[float, Field(allow_inf_nan=False)]


class SiteRange(_Strict):
    """What a site's inputs were on the calibration images, and what `aurep.ranges` makes of it.

    `low` and `high` are per channel, `quantiles` of all inputs at `aurep.ranges.QUANTILES`. `headroom_bits` (None where
    the target has no fixed point) and `polynomial_error`, the largest |p(x) - relu(x)| of replaced elements, hold
    within the bounds of `aurep.ranges.certified`.
    """

    name: str
    low: tuple[Number, ...]
    high: tuple[Number, ...]
    quantiles: tuple[Number, ...]
    headroom_bits: Number | None = None
    polynomial_error: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        if len(self.low) != len(self.high) or any(a > b for a, b in zip(self.low, self.high, strict=True)):
            raise ValueError(f"site {self.name}: bounds that are no ranges")
        return self


class FractionBits(_Strict):
    """The fewest fraction bits that keep the logits, see `aurep.truncation`; None where none of the ring's do."""

    ring: Count
    deterministic: Count | None = None
    probabilistic: Count | None = None


class RangeClaim(_Strict):
    """The range certificate: measured on `images` images of `data`."""

    data: str
    images: Count
    sites: tuple[SiteRange, ...]
    fraction_bits: FractionBits | None = None


@dataclass(frozen=True)
class Origin:
    """What an exported file says of where it comes from; all of it optional.

    Args:
        relu_budget: elements that were allowed to stay ReLU; None: exactly what was kept.
        max_sites: sites that they were allowed to stay at; None: all.
        input: how inputs are made; None: the example input's shape, already normalised.
        classes: names by output index.
        training: method, data, accuracies.
        checkpoint: sha256 of the weights file.
    """

    relu_budget: int | None = None
    input: InputClaim | None = None
    classes: tuple[str, ...] = ()
    training: TrainingClaim = field(default_factory=TrainingClaim)
    checkpoint: str | None = None
    max_sites: int | None = None


class Metadata(_Strict):
    """All claims of one exported file."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    version: str  # of aurep
    target: str
    relu_budget: Count
    relu_count: Count
    relu_total: Count
    max_sites: Count | None = None  # at which ReLUs were allowed; absent where that was not limited
    sites: tuple[SiteClaim, ...]
    input: InputClaim
    classes: tuple[str, ...] = ()
    training: TrainingClaim = TrainingClaim()
    checkpoint: Digest | None = None  # of model.safetensors
    comparisons: dict[str, Count]  # op type -> elements compared per image
    ranges: RangeClaim | None = None  # absent in files of aurep 0.1
    graph_sha256: Digest

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    def to_props(self) -> dict[str, str]:
        """As ONNX metadata: `aurep.<field>` -> text; structures as compact JSON."""
        fields = self.model_dump(mode="json", by_alias=True)
        return {PREFIX + key: v if isinstance(v, str) else _compact(v) for key, v in fields.items() if v is not None}

    @classmethod
    def from_props(cls, props: Mapping[str, str]) -> Metadata:
        """Read `metadata_props`. Raises AurepError where a field is missing, unknown or malformed."""
        fields: dict[str, Any] = {}
        for key, text in props.items():
            if key.startswith(PREFIX):
                name = key.removeprefix(PREFIX)
                fields[name] = text if name in _TEXT_FIELDS else _parse(key, text)
        if not fields:
            raise AurepError("the file carries no aurep metadata; it was not written by aurep or lost it on the way.")
        return cls.check(fields)

    @classmethod
    def check(cls, fields: Mapping[str, Any]) -> Metadata:
        """Validate plain data, e.g. a parsed `budget.json`."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise AurepError(
                f"aurep metadata is malformed at {where}: {first['msg']}; export the model again."
            ) from None

    def to_json(self) -> str:
        """The text of `budget.json`."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=2) + "\n"


_TEXT_FIELDS = ("version", "target", "checkpoint", "graph_sha256")


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def parse_json(text: str) -> Any:
    """Any JSON value. Raises ValueError where it is malformed, nested without end, or names a key twice."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Readers differ in which of two values under one key they take, so a file could mean two things."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _parse(key: str, text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        raise AurepError(
            f"metadata {key} is not JSON that names each key once: {text[:60]!r}; export the model again."
        ) from None


def mask_digest(mask: NDArray[Any]) -> str:
    """sha256 over one byte (0 or 1) an element, in C order."""
    return hashlib.sha256(np.ascontiguousarray(mask, dtype=np.uint8).tobytes()).hexdigest()


def coefficient_digest(coefficients: NDArray[Any] | None) -> str:
    """sha256 over the ascending coefficients as little-endian fp32, last axis degree + 1; of nothing at degree 0.

    A zero has no sign here: graphs add zeros, which turns -0 into 0.
    """
    data = b"" if coefficients is None else (np.ascontiguousarray(coefficients, dtype="<f4") + np.float32(0)).tobytes()
    return hashlib.sha256(data).hexdigest()


def graph_digest(model: onnx.ModelProto) -> str:
    """sha256 over the model without its metadata: shows accidental damage, proves nothing against intent."""
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def json_schema() -> str:
    """The JSON Schema of `budget.json`, as it ships in `budget.schema.json`."""
    schema = Metadata.model_json_schema(by_alias=True)
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"
