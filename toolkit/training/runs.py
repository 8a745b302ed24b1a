"""Starting runs and going on with them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from aurep.errors import AurepError
from aurep.files import write_text
from aurep.results import RunResult, read_result
from aurep.training.checkpoint import RunFolder
from aurep.training.config import Config, check_config
from aurep.training.own_weights import resolved
from aurep.training.pipeline import Pipeline
from aurep.training.progress import Progress

LOCK = ".lock"


def train(
    config: Config | Mapping[str, Any],
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    console: Console | None = None,
    verbose: bool = False,
) -> RunResult:
    """Baseline, search, finetune, and the run's files in `out`.

    Args:
        config: a checked configuration, or its sections as plain dicts.
        out: the run folder; default ``runs/<data>-<model>-<method>-<budget>-s<seed>``.
        resume: go on with the run in `out` where it stopped; one that has finished is read back. Without it, `out`
            must be new or empty.
        console: where progress goes; None is silent.
        verbose: more of it: every site's largest input after each epoch.

    Raises:
        AurepError: bad configuration or data, a folder in use, or a loss that became NaN.
        aurep.training.signals.Stopped: SIGTERM or SIGINT came; the checkpoint is written.
    """
    checked = resolved(config if isinstance(config, Config) else check_config(config))
    folder = RunFolder(out if out is not None else default_folder(checked))
    pipeline = Pipeline(
        checked, folder, Progress(console, verbose=verbose)
    )  # refuses bad input before a folder is made
    with _owned(folder, pipeline.fabric.is_global_zero):
        if folder.finished and resume:
            return read_result(folder.path)
        if folder.finished:
            raise AurepError(f"{folder.path} holds a finished run; choose another folder with --out.")
        if not resume and any(name.name != LOCK for name in folder.path.iterdir()):
            raise AurepError(
                f"{folder.path} is in use; go on with --resume {folder.path}, or choose another with --out."
            )
        pipeline.fabric.barrier()
        if pipeline.fabric.is_global_zero and not folder.config.exists():
            write_text(folder.config, pipeline.config.to_toml())
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
