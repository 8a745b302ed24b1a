"""The recipe imagenet-efficientnet-b2-50k from end to end, small: JPEGs, fresh weights, some hundred steps.

    python benchmarks/imagenet_rehearsal.py --cifar10 DIR --folder WORK    # on a CPU; an hour or two where it is busy
    python benchmarks/imagenet_rehearsal.py --folder WORK --resume         # goes on where the result file ends

It shows that the whole way is passable at ImageNet's size of network and image, and what a step costs; accuracies say
that it learned, no more. Every image is 64 of CIFAR-10's of one class side by side, from DIR/data_batch_*, or noise.
One image enlarged would not do: its pixels are much alike, so that a small batch's statistics are those of a few
values, and over 69 layers of them evaluation becomes another network than training.
Before the run: polynomials fitted to the untrained network, all 8,804,162 elements replaced, exported: what is
exportable before any training. Afterwards every target is exported or says why not, and what was written is
validated against its run and recounted.
Peak memory is the process's high-water mark, reset before each phase. Writes
benchmarks/results/imagenet_rehearsal.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from loading import SIZES, photograph, write_folder
from PIL import Image
from provenance import RESULTS, epochs_of, markdown_table, provenance
from rich.console import Console

import aurep
from aurep.data.cifar import read_cifar10
from aurep.exporters import export_run
from aurep.exporters.targets import TARGETS
from aurep.frameworks import FixedPoint
from aurep.metadata import InputClaim, Origin
from aurep.surgery import hybrid_sites
from aurep.training.config import Config, parse_config, read_recipe
from aurep.training.engine import Engine
from aurep.training.heap import keep_freed_memory
from aurep.training.pipeline import Pipeline

RECIPE = "imagenet-efficientnet-b2-50k"
TRAINING_IMAGES = 1_281_167 * 0.98  # ImageNet's, less the recipe's val_fraction
TEST_IMAGES, FIRST, CLASSES, ACROSS = 100, 136, 10, 8
GENERATED, TILED = "generated JPEGs", "JPEGs of 256x256, each 64 images of CIFAR-10 of one class side by side"
CHANGED = (
    "model.pretrained=false",
    "train.device=cpu",
    "train.precision=auto",
    "data.workers=1",
    "data.val_fraction=0.1",
    "baseline.epochs=6",
    "baseline.optimizer=adamw",
    "baseline.lr=2e-3",
    "search.epochs=1",
    "search.lr=3e-4",
    "search.calibration=64",
    "search.fit=bounded",  # as in the first calibration
    "finetune.epochs=7",
    "finetune.lr=3e-4",
    "finetune.range_weight=1",  # a hundred times the default, for 470 steps where the recipe has 78,000
    "finetune.ema=0",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=600, help="for training, of which a tenth is for validation")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--cifar10", type=Path, help="folder of the official batches; default: noise")
    parser.add_argument("--folder", type=Path, help="where images, run and bundles lie; default: a temporary one")
    parser.add_argument("--resume", action="store_true", help="keep what the result file has of the run in --folder")
    parser.add_argument("--page", action="store_true", help="only write the page again, from the JSON")
    arguments = parser.parse_args()
    keep_freed_memory()  # as the command does
    path = RESULTS / "imagenet_rehearsal.json"
    found: dict[str, Any] = json.loads(path.read_text()) if arguments.resume or arguments.page else provenance()
    if not arguments.page:
        for _ in rehearse(arguments, found):
            path.write_text(json.dumps(found, indent=1) + "\n")
    path.with_suffix(".md").write_text(page(found))
    print(page(found))


def rehearse(arguments: argparse.Namespace, found: dict[str, Any]) -> Iterator[None]:
    """Adds to `found` what is not in it: the first calibration, then the phases, then every target."""
    with nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = parse_config(read_recipe(RECIPE), RECIPE, [*CHANGED, *changes(folder / "images", arguments.batch)])
        if "images" not in found:
            found |= {"images": arguments.images, "kind": GENERATED if arguments.cifar10 is None else TILED}
        if not (folder / "images").exists():
            write_images(folder / "images", arguments.images, arguments.cifar10)
        if "first" not in found:
            found["first"] = first_calibration(config, folder)
            print(json.dumps(found["first"], indent=1), flush=True)
            yield
        if "phases" not in found:
            with peaks() as peak:
                result = aurep.train(config, folder / "run", console=Console(width=120))
            found |= {"batch": arguments.batch, "relu_total": result.relu_total, "relu_count": result.relu_count}
            found |= {"phases": phases(folder / "run", arguments.batch, peak), "targets": {}}
            found |= {"accuracy": result.test_accuracy, "teacher_accuracy": result.teacher_test_accuracy}
            print(json.dumps(found["phases"], indent=1), flush=True)
            yield
        for target in [name for name in TARGETS if name not in found["targets"]]:
            found["targets"][target] = exported(folder / "run", folder / target, target)
            yield


def changes(images: Path, batch: int) -> list[str]:
    return [f"data.name='folder:{images}'", f"train.batch_size={batch}"]


def write_images(folder: Path, images: int, cifar10: Path | None) -> None:
    """Class folders of JPEGs."""
    if cifar10 is None:
        pictures = [photograph(i, SIZES[i % len(SIZES)]) for i in range(40)]
        write_folder(folder, images, pictures, classes=CLASSES)
        return
    raw, random = read_cifar10(cifar10), np.random.default_rng(0)
    for part, x, y, number in (
        ("train", raw.x_train, raw.y_train, images),
        ("test", raw.x_test, raw.y_test, TEST_IMAGES),
    ):
        for i in range(number):
            label = i % CLASSES
            chosen = x[random.choice(np.flatnonzero(y == label), ACROSS**2, replace=False)]
            rows = chosen.reshape(ACROSS, ACROSS, 3, 32, 32).transpose(0, 3, 1, 4, 2)
            file = folder / part / f"{label:03}" / f"{i:05}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rows.reshape(ACROSS * 32, ACROSS * 32, 3)).save(file, quality=95)


def phases(run: Path, batch: int, peak: dict[str, dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Per phase: steps, images a second of training, and what `peak` has."""
    seconds, seen = defaultdict[str, float](float), defaultdict[str, float](float)
    largest, accuracies = defaultdict[str, list[str]](list), defaultdict[str, list[float]](list)
    for row in epochs_of(run):
        seconds[row["phase"]] += float(row["seconds"])
        seen[row["phase"]] += float(row["seconds"]) * float(row["images_per_second"])
        largest[row["phase"]].append(f"{float(row['largest_input'] or 'nan'):.3g}")
        accuracies[row["phase"]].append(float(row["val_accuracy"]))
    return {
        phase: {
            "steps": round(seen[phase] / batch),
            "images_per_second": seen[phase] / seconds[phase],
            "largest_inputs": largest[phase],
            "val_accuracies": accuracies[phase],
            **peak[phase],
        }
        for phase in seconds
    }


def first_calibration(config: Config, folder: Path) -> dict[str, Any]:
    """The untrained network with fitted polynomials at every element, exported and recounted."""
    from aurep.training.checkpoint import RunFolder
    from aurep.training.progress import Progress

    pipeline = Pipeline(config, RunFolder(folder / "none"), Progress(None))
    torch.manual_seed(0)
    images = torch.cat([x for x, _ in pipeline._loader("train").epoch(0)])[:FIRST]
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
    data = pipeline.data  # what the inputs are: `aurep validate` draws others like them
    made = InputClaim(shape=data.image_shape, mean=tuple(data.mean), std=tuple(data.std))
    aurep.export(student, batches[0][:1], file, origin=Origin(input=made))
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
    if bits := json.loads((bundle / "budget.json").read_text())["ranges"].get("fraction_bits"):
        found["fraction_bits"] = bits[_form(target).truncation]
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

    with patch.object(Engine, "fit", measured):  # where each phase of a run begins and ends
        yield found


# --- page ---


def page(found: dict[str, Any]) -> str:
    head = (
        "# EfficientNet-B2 at ImageNet's size, rehearsed\n\n"
        f"Recipe {RECIPE} on {found['images']} {found['kind']}, at 224x224: fresh weights. "
        f"{found['hardware']}, {found['versions']}, {found['date']}; other work ran on the machine, and at times held "
        "this up: images a second are too few by an unknown factor. Processor time, of a phase with its validation, "
        "says what a step costs to another. No accuracy of the recipe is meant.\n"
    )
    parts = [head, _first(found["first"])]
    if "phases" in found:
        parts += [_phases(found), _targets(found["targets"]), _estimate(found["phases"])]
    return "\n".join(parts)


def _first(first: dict[str, Any]) -> str:
    verdict = "passed" if first["passed"] else "failed, " + "; ".join(first["failed"])
    return (
        "## First calibration\n\n"
        f"Untrained, batch norms measured, no ReLU left, polynomials fitted at all {first['sites']} sites in turn; "
        "then images that the fit has not seen. Largest logit: "
        f"{first['largest_before']:.3g} with SiLU, {first['largest_moments']} with plain least squares, "
        f'{first["largest_bounded"]} with `fit_polynomials(..., method="bounded")`. The latter exported and '
        f"recounted: {first['relu_count']:,} elements, the gates of the squeeze-and-excite blocks; `aurep validate` "
        f"{verdict}.\n"
    )


def _phases(found: dict[str, Any]) -> str:
    plain = _seconds_a_step(found["phases"]["baseline"])
    rows = [
        [
            phase,
            row["steps"],
            f"{row['images_per_second']:.2f}",
            f"{_seconds_a_step(row):.2f}",
            f"{_seconds_a_step(row) / plain:.2f}",
            f"{row['peak_gib']:.2f}",
        ]
        for phase, row in found["phases"].items()
    ]
    head = ["phase", "steps", "images/s", "processor time a step, s", "to the baseline's", "peak memory, GiB"]
    return (
        f"## Phases\n\n{found['batch']} images a step. The search moves 8.8 million indicators in each, "
        f"however many images it has: a larger batch has a smaller share of that.\n\n{markdown_table(head, rows)}\n"
        f"Validation accuracy, % by epoch: {_accuracies(found, 'baseline')} in the baseline, "
        f"{_accuracies(found, 'search')} in the search, {_accuracies(found, 'finetune')} in finetuning; on the "
        f"{TEST_IMAGES} test images {found['accuracy']:.1f}, the teacher {found['teacher_accuracy']:.1f}. The largest "
        f"input of any site, on validation images: {found['phases']['search']['largest_inputs'][-1]} after the search, "
        f"{', '.join(found['phases']['finetune']['largest_inputs'])} after the epochs of finetuning. So short a search "
        "does not come to the budget by itself; the projection at its end does.\n"
    )


def _accuracies(found: dict[str, Any], phase: str) -> str:
    return ", ".join(f"{accuracy:.1f}" for accuracy in found["phases"][phase]["val_accuracies"])


def _seconds_a_step(phase: dict[str, Any]) -> float:
    return float(phase["processor_seconds"]) / int(phase["steps"])


def _targets(targets: dict[str, Any]) -> str:
    head = ["target", "MB", "ReLU-like elements recounted", "`aurep validate --run`", ""]
    return (
        f"## Exported\n\n{markdown_table(head, [_target_row(name, targets.get(name)) for name in TARGETS])}\n"
        "Of what is recounted, 14,784 are the sigmoids of the squeeze-and-excite blocks' gates. They are no sites: "
        "they stay in every network, besides the budget of 50,000.\n"
    )


def _target_row(name: str, row: dict[str, Any] | None) -> list[str]:
    if row is None:
        return [name, "", "", "not run yet", ""]
    if "refused" in row:
        return [name, "", "", "not exported", row["refused"]]
    failed = [check for check, (passed, _) in row["checks"].items() if not passed]
    said = [f"{check}: {row['checks'][check][1]}" for check in failed]
    if bits := row.get("fraction_bits"):
        said.append(f"{bits} fraction bits keep the logits, it has {_form(name).fraction}")
    verdict = "passed" if row["passed"] else "failed"
    return [name, f"{row['bytes'] / 1e6:.1f}", f"{row['relu_count']:,}", verdict, "; ".join(said).replace("|", "\\|")]


def _form(target: str) -> FixedPoint:
    form = TARGETS[target].framework.fixed_point
    assert form is not None
    return form


def _estimate(phases: dict[str, Any]) -> str:
    """From the ratios of steps measured here, for a rate that whoever reads it can measure on their own GPU."""
    config = parse_config(read_recipe(RECIPE), RECIPE)
    plain = _seconds_a_step(phases["baseline"])
    ratios = {phase: _seconds_a_step(phases[phase]) / plain for phase in ("search", "finetune")}
    epochs = {phase: int(getattr(config, phase).epochs) for phase in ratios}
    work = sum(epochs[phase] * ratios[phase] for phase in ratios)  # plain epochs
    hours = TRAINING_IMAGES * work / 1000 / 3600
    spelled = " + ".join(f"{epochs[phase]} epochs of {phase} at {ratios[phase]:.2f}" for phase in ratios)
    return (
        "## What a whole run would take\n\n"
        "An estimate, not a measurement: the recipe's teacher is ready-made, so that a run is "
        f"{spelled} times the plain training step, as measured above on a CPU: {work:.1f} plain epochs of "
        f"{TRAINING_IMAGES:,.0f} images. A GPU that trains the plain EfficientNet-B2 at 224x224 at 1,000 images a "
        f"second, data loading keeping up, would take {hours:.0f} hours; at another rate in proportion. Measure that "
        "rate with your own loop; the ratio on a GPU may be another than on a CPU.\n"
    )


if __name__ == "__main__":
    main()
