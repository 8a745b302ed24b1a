"""A run's end: its one look at the test set, and its files."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from aurep.budget import ReluBudget
from aurep.data import ImageData
from aurep.data.loader import Loader
from aurep.files import write_bytes, write_text
from aurep.metadata import InputClaim, TrainingClaim
from aurep.results import RunResult, WidthResult
from aurep.surgery import Narrow, narrower, relu_sites
from aurep.training.arithmetic import kernels_of
from aurep.training.checkpoint import RunFolder, portable, save_weights
from aurep.training.config import Config
from aurep.training.engine import evaluate
from aurep.training.metrics import EpochRow, write_metrics
from aurep.training.report import html_report

SAMPLES = 64  # test images kept in the run folder, so that an export needs no data set


def measure(
    run_dir: Path,
    config: Config,
    data: ImageData,
    networks: tuple[nn.Module, nn.Module],
    loaders: tuple[Loader | None, Loader],
    *,
    relu_budget: int,
    seconds: float,
) -> RunResult:
    """Count and evaluate what a run ended with.

    Args:
        networks: teacher and student.
        loaders: of the validation split, None where there is none, and of the test split.
    """
    (teacher, student), (val, test) = networks, loaders
    count = ReluBudget.of(relu_sites(student))
    training = TrainingClaim(
        method=config.search.method,
        model=config.model.name,
        data=config.data.name,
        seed=config.train.seed,
        config_sha256=config.digest(),
        val_accuracy=evaluate(student, val) if val is not None else None,
        test_accuracy=evaluate(student, test),
        teacher_val_accuracy=evaluate(teacher, val) if val is not None else None,
        teacher_test_accuracy=evaluate(teacher, test),
    )
    return RunResult(
        run_dir=run_dir,
        relu_budget=relu_budget,
        max_sites=config.search.max_sites if config.search.sites is None else len(config.search.sites),
        relu_count=count.relu_count,
        relu_total=count.relu_total,
        sites=count.sites,
        input=InputClaim(
            shape=data.image_shape,
            mean=tuple(data.mean),
            std=tuple(data.std),
            interpolation=config.data.interpolation,
            crop_pct=config.data.crop_pct,
        ),
        classes=tuple(data.classes),
        training=training,
        narrower=tuple(_measured(narrow, val, test) for narrow in narrower(student)),
        precision=config.train.precision,
        kernels=kernels_of(config),
        seconds=round(seconds, 1),
        finished=time.strftime("%Y-%m-%d"),
    )


def _measured(narrow: Narrow, val: Loader | None, test: Loader) -> WidthResult:
    network = narrow.network()
    count = ReluBudget.of(relu_sites(network))
    return WidthResult(
        width_multiplier=narrow.width_multiplier,
        relu_count=count.relu_count,
        relu_total=count.relu_total,
        val_accuracy=evaluate(network, val) if val is not None else None,
        test_accuracy=evaluate(network, test),
    )


def write_run(
    folder: RunFolder,
    config: Config,
    data: ImageData,
    student: nn.Module,
    rows: Sequence[EpochRow],
    result: RunResult,
) -> None:
    """The files of a finished run, the one that says so last."""
    save_weights(folder.model, portable(student))
    write_samples(folder.samples, data)
    write_metrics(folder.metrics, rows)
    write_text(folder.report, html_report(result, rows, config.to_toml()))
    folder.drop_checkpoint()
    result.write()


def write_samples(path: Path, data: ImageData) -> None:
    """The first test images (uint8) with their labels."""
    stream = io.BytesIO()
    np.savez_compressed(stream, images=data.x_test[:SAMPLES], labels=data.y_test[:SAMPLES])
    write_bytes(path, stream.getvalue())
