"""Starting, resuming and reading runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from aurep.budget import ReluSite
from aurep.errors import AurepError
from aurep.files import sha256, write_text
from aurep.metadata import InputClaim, TrainingClaim
from aurep.surgery import add_widths, at_width
from aurep.training.checkpoint import RunFolder, load_weights, read_weights
from aurep.training.config import Config, check_config, parse_config
from aurep.training.pipeline import Pipeline, RunResult, WidthResult
from aurep.training.progress import Progress
from aurep.training.setup import build_network, prepare_student

LOCK = ".lock"


def train(
    config: Config | Mapping[str, Any],
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    console: Console | None = None,
) -> RunResult:
    """Baseline, search, finetune, and the run's files in `out`.

    Args:
        config: a checked configuration, or its sections as plain dicts.
        out: the run folder; default ``runs/<data>-<model>-<method>-<budget>-s<seed>``.
        resume: go on with the run in `out` where it stopped; one that has finished is read back. Without it, `out`
            must be new or empty.
        console: where progress goes; None is silent.

    Raises:
        AurepError: bad configuration or data, a folder in use, or a loss that became NaN.
        aurep.training.signals.Stopped: SIGTERM or SIGINT came; the checkpoint is written.
    """
    checked = config if isinstance(config, Config) else check_config(config)
    folder = RunFolder(out if out is not None else default_folder(checked))
    pipeline = Pipeline(checked, folder, Progress(console))  # refuses bad input before a folder is made
    with _owned(folder, pipeline.fabric.is_global_zero):
        if folder.budget.exists() and resume:
            return _result_of(folder)
        if folder.budget.exists():
            raise AurepError(f"{folder.path} holds a finished run; choose another folder with --out.")
        if not resume and any(name.name != LOCK for name in folder.path.iterdir()):
            raise AurepError(
                f"{folder.path} is in use; go on with --resume {folder.path}, or choose another with --out."
            )
        pipeline.fabric.barrier()
        if pipeline.fabric.is_global_zero and not folder.config.exists():
            write_text(folder.config, checked.to_toml())
        try:
            return pipeline.run(resume)
        finally:
            pipeline.progress.close()


def train_baseline(config: Config, out: str | os.PathLike[str], console: Console | None = None) -> Path:
    """Train only the all-ReLU network of `config` in `out`, or go on with it; done already, return at once.

    Returns:
        The folder, to name as `baseline.checkpoint` of other runs.

    Raises:
        RunBusy: another process trains it.
    """
    folder = RunFolder(out)
    if not folder.teacher.exists():
        pipeline = Pipeline(config, folder, Progress(console))
        with _owned(folder, pipeline.fabric.is_global_zero):
            if not folder.teacher.exists():
                pipeline.run_baseline()
    return folder.path


def _result_of(folder: RunFolder) -> RunResult:
    """What the finished run in `folder` ended with."""
    facts = json.loads(folder.budget.read_text())
    training = facts["training"]
    return RunResult(
        folder.path,
        facts["relu_budget"],
        facts["relu_count"],
        facts["relu_total"],
        tuple(ReluSite(s["name"], tuple(s["shape"]), s["kept"], s["degree"]) for s in facts["sites"]),
        training["teacher_val_accuracy"],
        training["teacher_test_accuracy"],
        training["val_accuracy"],
        training["test_accuracy"],
        facts["seconds"],
        tuple(WidthResult(**width) for width in facts.get("narrower", ())),
    )


class RunBusy(AurepError):
    """Another process works in the run folder."""


@contextmanager
def _owned(folder: RunFolder, decides: bool) -> Iterator[None]:
    """Hold the folder's lock, which the system lets go of when the process ends, however it ends."""
    if folder.path.exists() and not folder.path.is_dir():
        raise AurepError(f"{folder.path} is a file; choose a folder with --out.")
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.path / LOCK)
    try:
        if decides:
            lock.acquire(timeout=0)
    except Timeout:
        raise RunBusy(f"another process works in {folder.path}; wait for it, or choose another folder.") from None
    try:
        yield
    finally:
        lock.release()


def default_folder(config: Config) -> Path:
    budget = str(config.search.budget).replace("%", "pct")
    name = f"{config.data.name}-{config.model.name}-{config.search.method}-{budget}-s{config.train.seed}"
    return Path("runs") / "".join(c if c.isalnum() or c in "-._" else "_" for c in name)


def read_config(path: str | os.PathLike[str]) -> Config:
    """The configuration of the run in folder `path`."""
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise AurepError(
            f"{folder.path} is not a run folder: it has no config.toml; expected one that aurep train wrote."
        )
    return parse_config(folder.config.read_text(), str(folder.config))


@dataclass(frozen=True)
class Run:
    """A finished run, read back from its folder, at one of the widths it was trained at."""

    folder: RunFolder
    config: Config
    facts: dict[str, Any]
    width: float = 1.0

    def at_width(self, width: float) -> Run:
        """The same run, with its model at `width`. Raises AurepError where it was not trained at it."""
        trained = self.config.search.widths
        if width not in trained:
            known = ", ".join(f"{w:g}" for w in trained)
            raise AurepError(f"{self.folder.path} was trained at width {known}, not {width:g}; choose one of these.")
        return replace(self, width=width)

    @cached_property
    def model(self) -> nn.Module:
        """The prepared network with its final weights and masks, on the CPU, in eval mode."""
        model = self._build(prepared=True)
        add_widths(model, self.example_input, self.config.search.widths)
        load_weights(model, read_weights(self.folder.model), self.folder.model)
        return at_width(model, self.width).eval()

    @cached_property
    def teacher(self) -> nn.Module:
        """The all-ReLU network that taught it."""
        model = self._build(prepared=False)
        load_weights(model, read_weights(self.folder.teacher), self.folder.teacher)
        return model.eval()

    @property
    def example_input(self) -> Tensor:
        return torch.zeros(1, *self.input_claim.shape)

    @property
    def relu_budget(self) -> int:
        return int(self.facts["relu_budget"])

    @property
    def input_claim(self) -> InputClaim:
        return InputClaim.model_validate(self.facts["input"])

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.facts["classes"])

    @property
    def training(self) -> TrainingClaim:
        claim = TrainingClaim.model_validate(self.facts["training"])
        for narrow in self.facts.get("narrower", ()):
            if narrow["width"] == self.width:
                keys = ("width", "val_accuracy", "test_accuracy")
                return claim.model_copy(update={key: narrow[key] for key in keys})
        return claim

    @property
    def checkpoint_sha256(self) -> str:
        return sha256(self.folder.model)

    def samples(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Up to `count` test images, normalised (n, C, H, W) float32, and their labels (n,)."""
        with np.load(self.folder.samples, allow_pickle=False) as stored:
            images, labels = stored["images"][:count], stored["labels"][:count]
        claim = self.input_claim
        mean = np.array(claim.mean, np.float32).reshape(-1, 1, 1)
        std = np.array(claim.std, np.float32).reshape(-1, 1, 1)
        return ((images.astype(np.float32) / 255 - mean) / std).astype(np.float32), labels.astype(np.int64)

    def _build(self, prepared: bool) -> nn.Module:
        network = build_network(self.config, self.input_claim.shape, len(self.classes))
        return prepare_student(self.config, network, self.example_input) if prepared else network


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read the finished run in folder `path`.

    Raises:
        AurepError: not a run folder, or a run that has not finished.
    """
    config, folder = read_config(path), RunFolder(path)
    if not folder.budget.is_file():
        raise AurepError(f"{folder.path} has not finished; go on with aurep train --resume {folder.path}.")
    try:
        facts = json.loads(folder.budget.read_text())
    except ValueError as error:
        raise AurepError(f"{folder.budget} is not JSON ({error}); the run folder is damaged.") from None
    return Run(folder, config, facts)
