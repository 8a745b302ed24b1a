"""The samples of a bundle: inputs as the model takes them, the eager model's logits, and labels."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aurep.errors import AurepError

FILE = "samples.npz"


@dataclass(frozen=True)
class Samples:
    """`inputs` (n, ...) float32, `logits` (n, classes) float32 of the eager model, `labels` (n,) or None."""

    inputs: NDArray[np.float32]
    logits: NDArray[np.float32]
    labels: NDArray[np.int64] | None = None


def read_samples(bundle: Path) -> Samples | None:
    """The bundle's samples; None where it has none. Raises AurepError where they are unreadable or do not fit."""
    file = bundle / FILE
    if not file.exists():
        return None
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays: dict[str, NDArray[Any]] = {name: stored[name] for name in ("inputs", "logits", "labels")}
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise AurepError(f"{file} is no samples file ({error}); export the model again.") from None
    inputs, logits, labels = arrays["inputs"], arrays["logits"], arrays["labels"]
    kinds = inputs.dtype == logits.dtype == np.float32 and np.issubdtype(labels.dtype, np.integer)
    if not kinds or logits.ndim != 2 or not len(inputs) == len(logits) > 0 or len(labels) not in (0, len(inputs)):
        raise AurepError(
            f"{file} holds inputs {inputs.dtype}{inputs.shape}, logits {logits.dtype}{logits.shape}, labels "
            f"{labels.dtype}{labels.shape}; expected float32, float32 and integers with the same number of rows."
        )
    return Samples(inputs, logits, labels.astype(np.int64) if len(labels) else None)


def eager_samples(run: Any, samples: Samples | None, count: int) -> Samples:
    """`samples` (or else the run's own) with logits computed afresh by the model of `run`, an `aurep.training.Run`."""
    import torch

    inputs, labels = (samples.inputs, samples.labels) if samples is not None else run.samples(count)
    with torch.no_grad():
        logits = run.model(torch.from_numpy(np.ascontiguousarray(inputs))).numpy()
    return replace(samples or Samples(inputs, logits, labels), logits=logits.astype(np.float32))
