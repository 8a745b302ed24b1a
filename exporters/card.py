"""The card of a bundle, `README.md`: what the file is, how good, what it costs, how to load it."""

from __future__ import annotations

from aurep.exporters.capture import Batch
from aurep.exporters.targets import Target
from aurep.metadata import Metadata


def write_card(metadata: Metadata, target: Target, batch: Batch) -> str:
    """Markdown; the same for the same export."""
    share = metadata.relu_count / metadata.relu_total if metadata.relu_total else 0.0
    training = metadata.training
    title = " on ".join(part for part in (training.model, training.data) if part) or "Exported network"
    lines = [
        f"# {title}",
        "",
        f"Written by aurep {metadata.version} for target `{target.name}`: {target.summary}.",
        *(["", target.note] if target.note else []),
        "",
        f"- ReLU count: {metadata.relu_count:,} of {metadata.relu_total:,} elements ({share:.2%}), "
        f"budget {metadata.relu_budget:,}{_places(metadata)}",
        *_narrowed(training.width_multiplier),
        f"- input: `input`, float32, ({batch}, {', '.join(map(str, metadata.input.shape))}); {_input(metadata)}",
        f"- output: `logits`{_classes(metadata)}",
        *_accuracy(metadata),
        "",
        "## Load it",
        "",
        "```python",
        target.loading.replace("@BATCH@", "" if batch == "dynamic" else f"[:{batch}]"),
        "```",
        "",
        *_comparisons(metadata),
        *_sites(metadata),
        "Check it with `aurep validate` on this folder. `samples.npz` holds `inputs`, `logits` of the PyTorch model "
        "and `labels`; `budget.json` repeats the metadata of `model.onnx`.",
    ]
    return "\n".join(lines) + "\n"


def _places(metadata: Metadata) -> str:
    if metadata.max_sites is None:
        return ""
    places = sum(site.kept > 0 for site in metadata.sites)
    return f"; at {places} of {len(metadata.sites)} sites, {metadata.max_sites} allowed"


def _input(metadata: Metadata) -> str:
    claim = metadata.input
    if claim.mean is None or claim.std is None:
        return "normalised as in training"
    low, high = claim.range
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (claim.mean, claim.std))
    return f"pixels scaled to {low:g}..{high:g}, minus ({mean}), over ({std})"


def _classes(metadata: Metadata) -> str:
    return (
        f", {len(metadata.classes)} classes: {', '.join(metadata.classes[:10])}"
        + (", ..." if len(metadata.classes) > 10 else "")
        if metadata.classes
        else ""
    )


def _accuracy(metadata: Metadata) -> list[str]:
    training = metadata.training
    found = [
        ("test accuracy", training.test_accuracy, training.teacher_test_accuracy),
        ("validation accuracy", training.val_accuracy, training.teacher_val_accuracy),
    ]
    return [
        f"- {name}: {value:.2f} %" + (f" (all-ReLU teacher {teacher:.2f} %)" if teacher is not None else "")
        for name, value, teacher in found
        if value is not None
    ]


def _comparisons(metadata: Metadata) -> list[str]:
    rows = [f"| {op} | {count:,} |" for op, count in metadata.comparisons.items()]
    if not rows:
        return ["## Comparisons", "", "None: every activation is a polynomial.", ""]
    return ["## Comparisons per image", "", "| operator | elements |", "|---|---:|", *rows, ""]


def _sites(metadata: Metadata) -> list[str]:
    if not metadata.sites:
        return []
    rows = [
        f"| {site.name} | {'x'.join(map(str, site.shape))} | {site.elements:,} | {site.kept:,} | {site.degree} |"
        for site in metadata.sites
    ]
    head = ["## Sites", "", "| site | shape | elements | kept | degree |", "|---|---|---:|---:|---:|"]
    return [*head, *rows, ""]


def _narrowed(width_multiplier: float | None) -> list[str]:
    if width_multiplier is None:
        return []
    return [f"- width multiplier: {width_multiplier:g} of the channels of the network it was trained in"]
