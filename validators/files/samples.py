"""The samples of a bundle: inputs as the model takes them, the eager model's logits, and labels."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from aurep.errors import AurepError
from aurep.validators.files.plain import MAX_BYTES, open_plain
from aurep.validators.stages import stage

FILE = "samples.npz"
Found = TypeVar("Found")
# What zipfile and numpy raise on damaged archives: RuntimeError on an encrypted one or an unknown compression,
# zlib.error on damaged data, SyntaxError and TypeError on an array's damaged header.
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    SyntaxError,
    TypeError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Samples:
    """`inputs` (n, ...) float32, `logits` (n, classes) float32 of the eager model, `labels` (n,) or None."""

    inputs: NDArray[np.float32]
    logits: NDArray[np.float32]
    labels: NDArray[np.int64] | None = None


def _archive(stream: BinaryIO) -> Any:
    stored = np.load(stream, allow_pickle=False)
    if not isinstance(stored, np.lib.npyio.NpzFile):
        raise ValueError("it is no archive of arrays")
    assert stored.zip is not None
    unfolded = sum(entry.file_size for entry in stored.zip.infolist())  # no more than that is ever unfolded of each
    if unfolded >= MAX_BYTES:
        raise ValueError(f"it unfolds to {unfolded:,} bytes, expected are less than 2 GiB")
    return stored


def read_samples(bundle: Path) -> Samples | None:
    """The bundle's samples; None where it has none. Raises AurepError where they are unreadable or do not fit."""
    file = bundle / FILE
    if not file.exists():
        return None
    try:
        with stage("while reading the samples"), open_plain(file) as stream, _archive(stream) as stored:
            arrays: dict[str, NDArray[Any]] = {name: stored[name] for name in ("inputs", "logits", "labels")}
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise AurepError(f"{file} is no samples file ({reason}); export the model again.") from None
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
    inputs, labels = (samples.inputs, samples.labels) if samples is not None else run.samples(count)
    logits = eager_logits(run, inputs)
    return replace(samples or Samples(inputs, logits, labels), logits=logits)


def eager_bounds(run: Any, inputs: NDArray[np.float32]) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Least and largest input, (C,) each, of every site of the model of `run`, on inputs (n, ...)."""

    def bounds(x: Any, _: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rows = x.transpose(0, 1).flatten(1)
        return rows.amin(1).numpy(), rows.amax(1).numpy()

    return eager_sites(run, inputs, bounds)


def eager_sites(run: Any, inputs: NDArray[np.float32], look: Callable[[Any, Any], Found]) -> dict[str, Found]:
    """What `look` makes of input and output, tensors (n, ...), of every site of the model of `run`, on inputs (n, ...).

    By site, named as in a file: a second call of the same module is `name:1`.
    """
    from aurep.activation import HybridActivation

    found: dict[str, Found] = {}
    calls: Counter[str] = Counter()

    def watch(site: Any, given: tuple[Any, ...], output: Any) -> None:
        name = f"{site.site}:{calls[site.site]}" if calls[site.site] else site.site
        calls[site.site] += 1
        found[name] = look(given[0], output)

    hooks = [m.register_forward_hook(watch) for m in run.model.modules() if isinstance(m, HybridActivation)]
    try:
        eager_logits(run, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def eager_logits(run: Any, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the model of `run` makes of inputs (n, ...)."""
    import torch

    with torch.no_grad():
        logits: NDArray[np.float32] = run.model(torch.from_numpy(np.ascontiguousarray(inputs))).numpy()
    return logits.astype(np.float32)
