"""The recipe imagenet-efficientnet-b2-50k from end to end, small: generated JPEGs, fresh weights, a few steps a phase.

    python benchmarks/imagenet_rehearsal.py            # on a CPU; an hour where it is busy

It shows that the whole way is passable at ImageNet's size of network and image, and what a step costs; the accuracy is
chance, for the images are noise. Before the run: polynomials fitted to the untrained network, all 8,804,162 elements
replaced, exported: what is exportable before any training. Afterwards every target is exported or says why not, and
what was written is validated against the run and recounted. Peak memory is the process's high-water mark, reset before
each phase. Writes benchmarks/results/imagenet_rehearsal.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from loading import SIZES, photograph, write_folder
from provenance import RESULTS, epochs_of, markdown_table, provenance
from rich.console import Console

import aurep
from aurep.exporters import export_run
from aurep.exporters.targets import TARGETS
from aurep.surgery import hybrid_sites
from aurep.training.config import Config, parse_config, read_recipe
from aurep.training.engine import Engine
from aurep.training.pipeline import Pipeline

RECIPE = "imagenet-efficientnet-b2-50k"
PHASES = ("baseline", "search", "finetune")
TRAINING_IMAGES = 1_281_167 * 0.98  # ImageNet's, less the recipe's val_fraction
CHANGED = (
    "model.pretrained=false",
    "train.device=cpu",
    "train.precision=fp32",
    "data.workers=1",
    "data.val_fraction=0.1",
    "baseline.epochs=1",
    "search.epochs=1",
    "finetune.epochs=1",
    "finetune.ema=0",
    "search.fit=bounded",  # the teacher is as good as untrained
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=240, help="for training, of which a tenth is for validation")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--targets", nargs="*", default=["onnx", *(name for name in TARGETS if name != "onnx")])
    parser.add_argument("--again", action="store_true", help="take the first calibration from the result file")
    parser.add_argument("--page", action="store_true", help="only write the page again, from the JSON")
    arguments = parser.parse_args()
    path = RESULTS / "imagenet_rehearsal.json"
    if not arguments.page:
        first = json.loads(path.read_text())["first"] if arguments.again else None
        for found in rehearse(arguments, first):
            path.write_text(json.dumps(found, indent=1) + "\n")
    path.with_suffix(".md").write_text(page(json.loads(path.read_text())))
    print(path.with_suffix(".md").read_text())


def rehearse(arguments: argparse.Namespace, first: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """What is known after training, and after every target."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = [photograph(i, SIZES[i % len(SIZES)]) for i in range(40)]
        write_folder(folder / "images", arguments.images, pictures, classes=arguments.classes)
        changes = [
            *CHANGED,
            f"data.name='folder:{folder / 'images'}'",
            f"train.batch_size={arguments.batch}",
            f"search.calibration={8 * arguments.batch}",
        ]
        config = parse_config(read_recipe(RECIPE), RECIPE, changes)
        first = first or first_calibration(config, folder)
        print(json.dumps(first, indent=1), flush=True)
        with peaks() as peak:
            result = aurep.train(config, folder / "run", console=Console(width=120))
        phases = {
            row["phase"]: {
                "steps": round(float(row["seconds"]) * float(row["images_per_second"]) / arguments.batch),
                "images_per_second": float(row["images_per_second"]),
                **peak[row["phase"]],
            }
            for row in epochs_of(folder / "run")
        }
        print(json.dumps(phases, indent=1), flush=True)
        found = {
            **provenance(),
            "images": arguments.images,
            "batch": arguments.batch,
            "classes": arguments.classes,
            "relu_total": result.relu_total,
            "relu_count": result.relu_count,
            "first": first,
            "phases": phases,
            "targets": {},
        }
        yield found
        for target in arguments.targets:
            found["targets"][target] = exported(folder / "run", folder / target, target)
            yield found


def first_calibration(config: Config, folder: Path) -> dict[str, Any]:
    """The untrained network with fitted polynomials at every element, exported and recounted."""
    from aurep.training.checkpoint import RunFolder
    from aurep.training.progress import Progress

    pipeline = Pipeline(config, RunFolder(folder / "none"), Progress(None))
    torch.manual_seed(0)
    images = torch.cat([x for x, _ in pipeline._loader("train").epoch(0)])
    unseen, *batches = images[:48].split(8)
    network = pipeline._network().train()
    with torch.no_grad():
        for x in batches:  # batch norms' running statistics; else an untrained network is none that anyone would export
            network(x)
    network.eval()
    student = aurep.prepare(network, batches[0][:1], degree=2, replace="auto")
    for site in hybrid_sites(student):
        site.set_mask(torch.zeros_like(site.mask))
    found: dict[str, Any] = {"sites": len(hybrid_sites(student))}
    found["relu_total"] = sum(site.elements for site in aurep.relu_sites(student))
    with torch.no_grad():
        found["largest_before"] = network(unseen).abs().max().item()
        for method in ("moments", "bounded"):
            try:
                aurep.fit_polynomials(student, batches, method=method)
                found[f"largest_{method}"] = f"{student(unseen).abs().max().item():.3g}"
            except aurep.AurepError:  # an earlier polynomial made a later site's inputs infinite
                found[f"largest_{method}"] = "infinite while it is fitted"
    file = folder / "first.onnx"
    aurep.export(student, batches[0][:1], file)
    report = aurep.validate(file)
    failed = [f"{check.name}: {check.measured}" for check in report.checks if not check.passed]
    return found | {"relu_count": aurep.count_relus(file).total, "passed": report.passed, "failed": failed}


def exported(run: Path, bundle: Path, target: str) -> dict[str, Any]:
    """What became of `target`: refused with a sentence, or the verdict on the file."""
    started = time.perf_counter()
    try:
        file = export_run(run, bundle, target)
    except aurep.AurepError as error:
        return {"refused": str(error)}
    wrote = time.perf_counter()
    report = aurep.validate(bundle, run=run)
    found = {
        "bytes": file.stat().st_size,
        "relu_count": aurep.count_relus(file).total,
        "passed": report.passed,
        "checks": {check.name: [check.passed, str(check.measured)] for check in report.checks},
        "export_seconds": wrote - started,
        "validate_seconds": time.perf_counter() - wrote,
    }
    print(target, json.dumps(found, indent=1), flush=True)
    return found


@contextmanager
def peaks() -> Iterator[dict[str, dict[str, float]]]:
    """Per phase, GiB that the process held at most (Linux: VmHWM, reset through clear_refs), and processor seconds."""
    found: dict[str, dict[str, float]] = {}
    fit = Engine.fit

    def measured(engine: Engine, phase: Any, *arguments: Any) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        used = time.process_time()
        try:
            fit(engine, phase, *arguments)
        finally:
            status = Path("/proc/self/status").read_text()
            peak = int(status.split("VmHWM:")[1].split()[0]) / 2**20
            found[phase.name] = {"peak_gib": peak, "processor_seconds": time.process_time() - used}

    Engine.fit = measured  # type: ignore[method-assign]  # the phases are inside the run: this is where each begins and ends
    try:
        yield found
    finally:
        Engine.fit = fit  # type: ignore[method-assign]  # put back


# --- page ---


def page(found: dict[str, Any]) -> str:
    config = parse_config(read_recipe(RECIPE), RECIPE)
    first, phases = found["first"], found["phases"]
    plain = phases["baseline"]["processor_seconds"]
    lines = [
        "# EfficientNet-B2 at ImageNet's size, rehearsed\n",
        f"Recipe {RECIPE} on {found['images']} generated JPEGs of {found['classes']} classes at 224x224, fresh "
        f"weights, batch {found['batch']}, one epoch a phase. {found['hardware']}, {found['versions']}, "
        f"{found['date']}; other work ran on the machine: images a second are too few by an unknown factor; processor "
        "time, of a phase with its validation, says what a step costs to another. No accuracy is "
        "meant: the images are noise.\n",
        f"{found['relu_total']:,} activation elements counted, {found['relu_count']:,} kept. The gates of the "
        "squeeze-and-excite blocks, 14,784 sigmoids, are no sites: they stay, and a file counts them besides.\n",
        "## First calibration\n",
        f"Untrained, batch norms measured, no ReLU left, polynomials fitted at all {first['sites']} sites in turn; "
        "then images that the fit has not seen. Largest logit: "
        f"{first['largest_before']:.3g} with SiLU, {first['largest_moments']} with plain least squares, "
        f'{first["largest_bounded"]} with `fit_polynomials(..., method="bounded")`. The latter exported and '
        f"recounted: {first['relu_count']:,} elements; `aurep validate` "
        f"{'passed' if first['passed'] else 'failed, ' + '; '.join(first['failed'])}.\n",
        "## Phases\n",
        markdown_table(
            ["phase", "steps", "images/s", "processor time, s", "to the baseline's", "peak memory, GiB"],
            [
                [
                    phase,
                    row["steps"],
                    f"{row['images_per_second']:.2f}",
                    f"{row['processor_seconds']:.0f}",
                    f"{row['processor_seconds'] / plain:.2f}",
                    f"{row['peak_gib']:.2f}",
                ]
                for phase, row in phases.items()
            ],
        ),
        "A teacher of so few steps is none: its logits in evaluation are of any size, and so are the polynomials after "
        "it. What is seen here is what a step costs and that the way is passable, down to the budget.\n",
        "## Exported\n",
        markdown_table(
            ["target", "MB", "ReLU elements recounted", "`aurep validate --run`", ""],
            [_target_row(name, found["targets"].get(name)) for name in TARGETS],
        ),
        "Masks and coefficients are the checkpoint's and logits agree. Where the count fails, it is for `Add`s at the "
        "end of the network: with such a teacher their inputs are so large that rounding acts as a step, which the "
        "validator counts as comparisons.\n",
        "## What a whole run would take\n",
        _estimate(config, phases),
    ]
    return "\n".join(lines)


def _target_row(name: str, row: dict[str, Any] | None) -> list[str]:
    if row is None:
        return [name, "", "", "not run yet", ""]
    if "refused" in row:
        return [name, "", "", "not exported", row["refused"]]
    failed = [check for check, (passed, _) in row["checks"].items() if not passed]
    said = "; ".join(f"{check}: {row['checks'][check][1]}" for check in failed)
    verdict = "passed" if row["passed"] else "failed"
    return [name, f"{row['bytes'] / 1e6:.1f}", f"{row['relu_count']:,}", verdict, said]


def _estimate(config: Config, phases: dict[str, Any]) -> str:
    """From the ratios of steps measured here, for a rate that whoever reads it can measure on their own GPU."""
    plain = phases["baseline"]["processor_seconds"]
    ratios = {phase: phases[phase]["processor_seconds"] / plain for phase in ("search", "finetune")}
    epochs = {phase: int(getattr(config, phase).epochs) for phase in ratios}
    work = sum(epochs[phase] * ratios[phase] for phase in ratios)  # plain epochs
    hours = TRAINING_IMAGES * work / 1000 / 3600
    spelled = " + ".join(f"{epochs[phase]} epochs of {phase} at {ratios[phase]:.2f}" for phase in ratios)
    return (
        "An estimate, not a measurement: the recipe's teacher is ready-made, so that a run is "
        f"{spelled} times the plain training step, as measured above on a CPU: {work:.1f} plain epochs of "
        f"{TRAINING_IMAGES:,.0f} images. A GPU that trains the plain EfficientNet-B2 at 224x224 at 1,000 images a "
        f"second, data loading keeping up, would take {hours:.0f} hours; at another rate in proportion. Measure that "
        "rate with your own loop; the ratio on a GPU may be another than on a CPU.\n"
    )


if __name__ == "__main__":
    main()
