"""`validate`, `inspect` and `count_relus` as the world calls them: on files of strangers, in a process of their own.

What happens there is in `validation`, `inspection` and `relu_count`; how it is bound, in `sandbox`. Nothing here opens
the file.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurep.errors import AurepError, one_line
from aurep.validators.report import Report
from aurep.validators.sandbox.client import Progress, ask, prepare
from aurep.validators.sandbox.limits import Limits

if TYPE_CHECKING:
    from aurep.frameworks import FixedPoint
    from aurep.validators.checks.accuracy import Decided
    from aurep.validators.inspection import Inspection
    from aurep.validators.relu_count import ReluCount

_ERRORS = {"UncountableError": "graph.facts", "CannotRunError": "session"}  # an AurepError's kind -> where it is


def validate(
    path: str | Path,
    *,
    run: str | Path | None = None,
    data: str | None = None,
    data_dir: str | Path | None = None,
    budget: str | int | None = None,
    max_comparisons: str | int | None = None,
    max_sites: int | None = None,
    max_accuracy_drop: float | None = None,
    min_accuracy: float | None = None,
    accuracy_by: Decided = "estimate",
    provider: str = "auto",
    fixed_point: FixedPoint | str | None = None,
    target: str | None = None,
    limits: Limits | str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Recount and re-measure an exported model, which may be a stranger's: a process of its own does all of it.

    Args:
        path: a bundle folder or an ONNX file.
        run: the run folder it was exported from: masks, coefficients and logits are compared with its checkpoint's.
        data: data set whose test part the accuracy is measured on, as `aurep.data.load_data` names it. Default: the
            run's, if that is on this machine.
        data_dir: where the data set lies.
        budget: ReLU elements allowed, as an element count, 12.9k or 10%; default: what the file claims.
        max_comparisons: comparisons allowed per image, by ReLUs, max-pooling and all else together, written like a
            budget; 10%: of what the network would make if all its activations were ReLUs.
        max_sites: places where ReLUs may be evaluated; default: what the file claims, if it does.
        max_accuracy_drop: points that the test accuracy may lie below the teacher's (or below the claim).
        min_accuracy: percent that the test accuracy must reach.
        accuracy_by: what those two are held against: the measured figure, or the worse end of its 95 % interval.
        provider: `auto`, `cpu` or `cuda`; `cuda` is an error where the model would not really run there.
        fixed_point: ring and fraction bits to simulate, e.g. ``64:16``; default: the target's, if it has any.
        target: whose rules the file must obey, whoever wrote it; default: what it claims.
        limits: what it may cost, as `Limits` or its text, e.g. ``memory=16GiB,wall=3600``.
        progress: is told what is being done, e.g. ``while running the graph``.

    Raises:
        AurepError: wrong usage, a file, run or data set that cannot be read, or a file that crashes what reads it or
            costs more than `limits`.
    """
    prepare()
    if data is not None:
        _fetch(data, data_dir)
    arguments = {
        "home": os.getcwd(),
        "run": _absolute(run),
        "data": data,
        "data_dir": _absolute(data_dir),
        "budget": budget,
        "max_comparisons": max_comparisons,
        "max_sites": max_sites,
        "max_accuracy_drop": max_accuracy_drop,
        "min_accuracy": min_accuracy,
        "accuracy_by": accuracy_by,
        "provider": provider,
        "fixed_point": fixed_point if isinstance(fixed_point, str | None) else str(fixed_point),
        "target": target,
    }
    return Report.from_dict(_answer("validate", path, arguments, limits, progress))


def inspect(path: str | Path, *, limits: Limits | str | None = None, progress: Progress | None = None) -> Inspection:
    """Look at an ONNX file, a bundle folder or a run folder. Raises AurepError where it is none of these."""
    from aurep.validators.inspection import Inspection

    return Inspection.from_dict(_answer("inspect", path, {}, limits, progress))


def count_relus(path: str | Path, *, limits: Limits | str | None = None) -> ReluCount:
    """Count the ReLUs that an ONNX file, or the model of a bundle folder, evaluates per image.

    Raises:
        AurepError: the file cannot be read.
        UncountableError: it is a graph whose comparisons cannot be bounded from the graph alone (an AurepError too).
    """
    from aurep.validators.relu_count import ReluCount

    return ReluCount.from_dict(_answer("count_relus", path, {}, limits, None))


def _answer(
    job: str, path: str | Path, arguments: dict[str, Any], limits: Limits | str | None, progress: Progress | None
) -> dict[str, Any]:
    allowed = Limits.parse(limits) if isinstance(limits, str) else limits or Limits()
    absolute = str(_absolute(path))
    answer = ask(job, {"path": absolute, **arguments}, allowed, progress)
    if "reply" in answer:
        reply: dict[str, Any] = answer["reply"]
        if isinstance(reply.get("file"), str):
            reply["file"] = _as_given(reply["file"], absolute, path)
        return reply
    if "error" in answer:
        kind = answer["kind"]
        home = import_module(f"aurep.validators.{_ERRORS[kind]}") if kind in _ERRORS else None
        raise getattr(home, kind, AurepError)(_as_given(answer["error"], absolute, path))
    refusal = AurepError(
        f"{path} is refused, because {answer['stage'] or 'before it was opened'} {answer['broken']}; do not use the "
        "file, or, if it is sound and large, raise the limits (--limits)."
    )
    if "traceback" in answer:
        refusal.add_note("\n".join(map(one_line, answer["traceback"].splitlines())))
    raise refusal


def _fetch(name: str, data_dir: str | Path | None) -> None:
    """Download a public set that the user named, which the process without a network could not."""
    from aurep.data import SOURCES, default_data_dir

    folder = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    if name in SOURCES:
        from aurep.data.sources import locate

        locate(name, SOURCES[name], folder)
    elif name.startswith("hf:"):
        from aurep.data.hub import read_hub

        read_hub(name.removeprefix("hf:"), folder)


def _absolute(path: str | Path | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def _as_given(text: str, absolute: str, path: str | Path) -> str:
    """`text` with the path as the caller wrote it, at its beginning."""
    return str(path) + text.removeprefix(absolute) if text.startswith(absolute) else text
