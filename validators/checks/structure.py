"""Is it a valid ONNX file of its target, and do its claims fit together?"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import shape_inference

from aurep.errors import AurepError
from aurep.frameworks import FRAMEWORKS, Fault, Framework, find_faults
from aurep.metadata import Metadata, graph_digest
from aurep.validators.files.reading import Artefact, read_json
from aurep.validators.files.storage import graphs_of
from aurep.validators.graph.batch import model_inputs
from aurep.validators.graph.facts import describe
from aurep.validators.graph.infer import STANDARD
from aurep.validators.relu_count import ReluCount
from aurep.validators.report import Check
from aurep.validators.stages import stage

# Of a file that names no target: whatever the runtimes read.
_ANY = Framework("any", opsets=(9, 28), ir_versions=(3, 14), functions=True)


def check_structure(
    artefact: Artefact, count: ReluCount | None, judged_as_given: bool, target: str | None = None
) -> Check:
    """Format, nodes and claims.

    Args:
        artefact: what was opened.
        count: None where the graph could not be counted.
        judged_as_given: the caller said what to hold the file against, so that it may lack metadata.
        target: whose rules to apply; default: what the metadata claims.

    Raises:
        AurepError: there is no such target.
    """
    if target is not None and target not in FRAMEWORKS:
        raise AurepError(f"there is no target {target!r}; choose one of {', '.join(FRAMEWORKS)}.")
    claimed = artefact.metadata.target if artefact.metadata is not None else ""
    chosen = target or claimed
    problems = [
        *_format(artefact, count, chosen),
        *_nodes(artefact, chosen),
        *_framework(artefact, chosen),
        *_claims(artefact, judged_as_given),
    ]
    found = f"{len(problems)} faults" if len(problems) != 1 else "1 fault"
    return Check("structure", found, "0 faults", not problems, " ".join(problems))


def _format(artefact: Artefact, count: ReluCount | None, target: str) -> Iterator[str]:
    model = artefact.model
    try:
        # Shape inference follows functions without end where they call themselves: only what was counted is safe.
        with stage("while checking the format"):
            onnx.checker.check_model(model, full_check=count is not None)
    except (onnx.checker.ValidationError, shape_inference.InferenceError, RuntimeError, ValueError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        yield f"The ONNX checker refuses the file: {reason[:200]}; export the model again."
    rules = FRAMEWORKS.get(target, _ANY)
    opset = max((entry.version for entry in model.opset_import if entry.domain in STANDARD), default=0)
    if not rules.opsets[0] <= opset <= rules.opsets[1]:
        yield f"Opset {opset} was found, {_span(rules.opsets)} expected; export again with that opset."
    if not rules.ir_versions[0] <= model.ir_version <= rules.ir_versions[1]:
        yield f"IR version {model.ir_version} was found, {_span(rules.ir_versions)} expected; export the model again."
    if artefact.external and artefact.metadata is not None:
        yield "Weights lie in other files; export a single file (below 2 GiB)."


def _framework(artefact: Artefact, target: str) -> Iterator[str]:
    """What the framework itself would refuse or get wrong, a sentence a rule that is broken; the first of each rule."""
    if FRAMEWORKS.get(target, _ANY).faults is None:
        return
    found: dict[str, list[Fault]] = {}
    for fault in find_faults(artefact.model, target):
        found.setdefault(fault.rule, []).append(fault)
    for same in found.values():
        more = f" (and {len(same) - 1} more)" if len(same) > 1 else ""
        yield f"{target} cannot take the file: {same[0]}{more}."


def _nodes(artefact: Artefact, target: str) -> Iterator[str]:
    model, rules = artefact.model, FRAMEWORKS.get(target, _ANY)
    defined = {(f.domain, f.name) for f in model.functions}
    for domain, name in sorted(defined):
        if artefact.metadata is not None and not (rules.functions and domain == "ai.aurep"):
            yield f"The function {domain}::{name} is none that the target allows; export the model again."
    yield from _defaults(model)
    if rules.faults is not None:
        return  # the framework's own rules speak of every node
    bodies = [node for graph in graphs_of(model.graph) for node in graph.node]
    for node in [*bodies, *(node for f in model.functions for node in f.node)]:
        if node.domain not in STANDARD and (node.domain, node.op_type) not in defined:
            yield f"{describe(node)} is a custom operator that the file does not define; export without it."
        if artefact.metadata is not None and node.op_type == "BatchNormalization":
            yield f"{describe(node)} is not folded into a convolution; export the model again."
        if artefact.metadata is not None and node.metadata_props:
            yield f"{describe(node)} carries metadata of its own, which may leak paths; export the model again."


def _defaults(model: onnx.ModelProto) -> Iterator[str]:
    if model.ir_version >= 4:
        stored = {tensor.name for tensor in model.graph.initializer}
        for value in model.graph.input:
            if value.name in stored:
                yield f"Input {value.name!r} has a default that a caller can replace; make it a plain initializer."


def _claims(artefact: Artefact, judged_as_given: bool) -> Iterator[str]:
    metadata = artefact.metadata
    if metadata is None:
        absent = not any(entry.key.startswith("aurep.") for entry in artefact.model.metadata_props)
        if not (absent and judged_as_given):
            problem = artefact.problem or "the metadata is absent"
            advice = " To judge a plain ONNX file, give a budget (--budget) or a target (--target)." if absent else ""
            yield f"{problem[0].upper()}{problem[1:]}{advice}"
        return
    if metadata.graph_sha256 != graph_digest(artefact.model):
        yield "The graph is not the one that the metadata was written for (aurep.graph_sha256); export the model again."
    if artefact.bundle is not None:
        yield from _budget_file(artefact, metadata)
    if metadata.target not in FRAMEWORKS:
        yield f"The target {metadata.target!r} is unknown; export to one of {', '.join(FRAMEWORKS)}."
    inputs = model_inputs(artefact.model)
    dims = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim][1:] if len(inputs) == 1 else None
    if dims != list(metadata.input.shape):
        yield f"The graph takes inputs of shape {dims} but {list(metadata.input.shape)} is claimed; export again."
    outputs = artefact.model.graph.output[0].type.tensor_type.shape.dim
    width = outputs[-1].dim_value if outputs else 0
    if metadata.classes and width != len(metadata.classes):
        yield f"The graph gives {width} outputs but {len(metadata.classes)} classes are claimed; export again."
    outside = metadata.relu_count - sum(site.kept for site in metadata.sites)  # ReLUs of no site, all of them kept
    if outside < 0 or outside != metadata.relu_total - sum(site.elements for site in metadata.sites):
        yield (
            f"The claimed sites do not sum to the claimed {metadata.relu_count:,} of {metadata.relu_total:,} elements; "
            "export the model again."
        )
    if len({site.name for site in metadata.sites}) < len(metadata.sites):
        yield "Two claimed sites share a name; export the model again."


def _budget_file(artefact: Artefact, metadata: Metadata) -> Iterator[str]:
    assert artefact.bundle is not None
    try:
        written = read_json(artefact.bundle / "budget.json")
        fields = written if isinstance(written, dict) else {}
        if Metadata.check(fields) != metadata:
            yield "budget.json does not say what the model's metadata says; export the model again."
    except AurepError as error:
        yield str(error)


def _span(bounds: tuple[int, int]) -> str:
    return str(bounds[0]) if bounds[0] == bounds[1] else f"{bounds[0]} to {bounds[1]}"
