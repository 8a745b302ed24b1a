"""The metadata of a file: what is claimed, stamped last, and read back from what was saved."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import onnx

from aurep.budget import ReluBudget, ReluSite
from aurep.errors import AurepError
from aurep.exporters.comparisons import count_comparisons
from aurep.exporters.site import Site
from aurep.exporters.targets import Target
from aurep.metadata import InputClaim, Metadata, Origin, graph_digest

_SMALLEST_TOO_LARGE = 2**31  # bytes: protobuf's limit for one message


def claims_for(
    model: onnx.ModelProto, sites: Sequence[Site], origin: Origin, claim: InputClaim, target: Target
) -> Metadata:
    """The claims about `model`. What compares outside of all sites counts as kept and towards the total.

    A ReLU there is held against the budget, as any ReLU. The rest (gates, other activations that were to stay) was none
    of the search's choice, so it widens the claimed budget by as much.

    Raises:
        AurepError: more ReLU elements than the budget allows, or at more sites.
    """
    found = count_comparisons(model, sites)
    counted = ReluBudget.of(ReluSite(s.name, s.shape, s.kept, s.degree) for s in sites)
    outside = sum(found.outside.values())
    plain = found.outside.get("Relu", 0)
    kept = counted.relu_count + plain
    budget = kept if origin.relu_budget is None else origin.relu_budget
    if kept > budget:
        where = f" ({plain:,} of them in no site)" if plain else ""
        raise AurepError(
            f"the model keeps {kept:,} ReLU elements{where}, but its budget is {budget:,}; search with that "
            "budget or export with a larger one."
        )
    places = sum(site.kept > 0 for site in sites) + found.places.get("Relu", 0)
    if origin.max_sites is not None and places > origin.max_sites:
        raise AurepError(
            f"the model keeps ReLUs at {places} sites, but {origin.max_sites} are allowed; search with that limit or "
            "export with a larger one."
        )
    others = sum(found.places.values()) - found.places.get("Relu", 0)
    return Metadata(
        version=version("aurep"),
        target=target.name,
        relu_budget=budget + outside - plain,
        relu_count=counted.relu_count + outside,
        relu_total=counted.relu_total + outside,
        max_sites=None if origin.max_sites is None else origin.max_sites + others,
        sites=tuple(site.claim() for site in sites),
        input=claim,
        classes=origin.classes,
        training=origin.training,
        checkpoint=origin.checkpoint,
        comparisons=found.all,
        graph_sha256=graph_digest(model),
    )


def stamp(model: onnx.ModelProto, metadata: Metadata) -> None:
    """Write `metadata` into the model. Nothing may change the graph after this."""
    del model.metadata_props[:]
    for key, text in metadata.to_props().items():
        model.metadata_props.add(key=key, value=text)


def serialise(model: onnx.ModelProto) -> bytes:
    """The bytes of the file, the same for the same model."""
    size = model.ByteSize()
    if size >= _SMALLEST_TOO_LARGE:
        raise AurepError(
            f"the model needs {size:,} bytes, but one ONNX file holds less than 2 GiB; use a smaller model."
        )
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def verify_saved(file: Path, expected: Metadata, target: Target) -> None:
    """Read the saved file back: metadata, digest, versions, and ONNX's full check. Raises AurepError."""
    saved = onnx.load(file)
    try:
        onnx.checker.check_model(saved, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).splitlines()[0]
        raise AurepError(f"the exported graph is not valid ONNX: {reason}; please report it.") from error
    found = Metadata.from_props({entry.key: entry.value for entry in saved.metadata_props})
    opset = {entry.domain: entry.version for entry in saved.opset_import}.get("")
    sound = found == expected and graph_digest(saved) == expected.graph_sha256
    if not sound or opset != target.framework.opset or saved.ir_version != target.framework.ir_version:
        raise AurepError(f"the file as saved differs from what was exported; check the disk of {file.parent}.")
