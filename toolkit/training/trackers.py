"""Experiment trackers beside metrics.csv: TensorBoard, Weights & Biases, MLflow, each by its own library's logger.

`train.log` names them. Each gets, after every epoch, the numbers of `scalars` at the epoch's number over the whole run,
and at the end the run's results. The libraries are optional, and imported only where named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from aurep.errors import AurepError
from aurep.files import write_text
from aurep.results import RunResult
from aurep.training.config import Config
from aurep.training.metrics import EpochRow

Name = Literal["csv", "tensorboard", "wandb", "mlflow"]


class Tracker(Protocol):
    """What aurep asks of one."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name, at `step`."""

    def close(self, ended: bool) -> None:
        """Everything is written; the run has `ended`, or was stopped or failed."""


def scalars(row: EpochRow) -> dict[str, float]:
    """The numbers of an epoch: `search/train_loss`, ..., `search/kept/SITE`, `search/largest_input/SITE`."""
    numbers: dict[str, Any] = {key: value for key, value in row.items() if isinstance(value, int | float)}
    numbers.pop("epoch")
    numbers |= {f"kept/{site}": count for site, count in row["kept"].items()}
    numbers |= {f"largest_input/{site}": largest for site, largest in row["inputs"].items()}
    numbers |= {f"val_accuracy_{share}": accuracy for share, accuracy in row.get("narrower", {}).items()}
    return {f"{row['phase']}/{key}": float(value) for key, value in numbers.items() if math.isfinite(value)}


def results(result: RunResult) -> dict[str, float]:
    """What a run ended with, as numbers."""
    counts = {key: float(getattr(result, key)) for key in ("relu_budget", "relu_count", "relu_total", "seconds")}
    claims = result.training.model_dump()
    training = {key: value for key, value in claims.items() if key.endswith("accuracy") and value is not None}
    return {f"result/{key}": value for key, value in (counts | training).items()}


class Trackers:
    """All trackers of a run; as a context, closed when it is left, however it is left.

    Args:
        names: of `train.log`; "csv" is metrics.csv, which every run has.
        folder: the run's.
        config: told to the trackers as the run's parameters.

    Raises:
        AurepError: a tracker's library is not installed, or refuses.
    """

    def __init__(self, names: Sequence[Name], folder: Path, config: Config) -> None:
        self._all: list[Tracker] = []
        for name in names:
            if name != "csv":
                self._all.append(self._opened(name, folder, config))

    def _opened(self, name: str, folder: Path, config: Config) -> Tracker:
        try:
            return _OPENERS[name](folder, config)
        except Exception as error:  # each library raises its own, for want of a login, a server, a disk
            self._close(ended=False)
            if isinstance(error, AurepError):
                raise
            said = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            raise AurepError(f"train.log names {name}, which refuses: {said} Mend that, or leave it out.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._close(ended=kind is None)

    def epoch(self, rows: Sequence[EpochRow]) -> None:
        """The last of `rows` is new."""
        for tracker in self._all:
            tracker.log(scalars(rows[-1]), len(rows))

    def results(self, rows: Sequence[EpochRow], result: RunResult) -> None:
        """What the run of all `rows` ended with."""
        for tracker in self._all:
            tracker.log(results(result), len(rows))

    def _close(self, ended: bool) -> None:
        for tracker in self._all:
            tracker.close(ended)
        self._all = []


def _library(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise AurepError(
            f'train.log names {extra}, which needs {name} ({error}); pip install "aurep[{extra}]", or leave it out.'
        ) from None


class _TensorBoard:
    def __init__(self, folder: Path, config: Config) -> None:
        _library("tensorboard", "tensorboard")
        from lightning_fabric.loggers.tensorboard import TensorBoardLogger

        self._logger = TensorBoardLogger(folder, name="tensorboard", version="")
        self._logger.log_hyperparams({"config.toml": config.to_toml()})

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._logger.log_metrics(dict(values), step)
        self._logger.save()

    def close(self, ended: bool) -> None:
        self._logger.finalize("success" if ended else "aborted")


class _WandB:
    """A resumed run goes on as the same one: its id is kept in the run folder."""

    def __init__(self, folder: Path, config: Config) -> None:
        wandb = _library("wandb", "wandb")
        fields = config.model_dump(mode="json", exclude_none=True)
        known = _known(folder / "wandb.run")
        self._run = wandb.init(
            project="aurep",
            name=folder.name,
            dir=str(folder),
            id=known,
            resume="allow",
            config=fields,
            reinit="create_new",  # else wandb hands out a run of this process that is still open
        )
        write_text(folder / "wandb.run", str(self._run.id))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self, ended: bool) -> None:
        self._run.finish(exit_code=0 if ended else 1)


class _MLflow:
    """Where MLFLOW_TRACKING_URI, or MLflow itself, says. A resumed run goes on as the same one."""

    def __init__(self, folder: Path, config: Config) -> None:
        mlflow = _library("mlflow", "mlflow")
        self._client = mlflow.MlflowClient()
        known = _known(folder / "mlflow.run")
        if known is None:
            experiment = self._client.get_experiment_by_name("aurep")
            where = experiment.experiment_id if experiment else self._client.create_experiment("aurep")
            known = self._client.create_run(where, run_name=folder.name).info.run_id
            write_text(folder / "mlflow.run", known)
            for key, value in _flat(config.model_dump(mode="json", exclude_none=True)).items():
                self._client.log_param(known, key, value)
        self._client.update_run(known, status="RUNNING")  # one that was stopped goes on
        self._id = known

    def log(self, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self._client.log_metric(self._id, key, value, step=step)

    def close(self, ended: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if ended else "KILLED")


def _known(path: Path) -> str | None:
    return path.read_text().strip() if path.exists() else None


def _flat(fields: Mapping[str, Any], before: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in fields.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": str(value)}
    return found


_OPENERS: dict[str, Callable[[Path, Config], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "mlflow": _MLflow,
}
