"""What runs ended with: `run.json`, written and read by one class, and a comparison's row over several of them.

Beside `run.json` lies `budget.json`, its counts alone under the names that an exported model's budget has.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from aurep.budget import ReluSite
from aurep.errors import AurepError
from aurep.files import write_text
from aurep.metadata import Count, InputClaim, TrainingClaim

FILE, BUDGET = "run.json", "budget.json"
_BUDGET_KEYS = {"relu_budget", "max_sites", "relu_count", "relu_total", "sites"}


class WidthResult(BaseModel):
    """A run's network at a width multiplier below 1, counted and measured by itself."""

    model_config = ConfigDict(frozen=True)

    width_multiplier: float = Field(validation_alias=AliasChoices("width_multiplier", "width"))  # old: until 0.2
    relu_count: Count
    relu_total: Count
    val_accuracy: float | None
    test_accuracy: float


class RunResult(BaseModel):
    """What a run ended with. Accuracies in percent; those of validation are None where there is no such split."""

    model_config = ConfigDict(frozen=True)

    run_dir: Path = Field(exclude=True)
    relu_budget: Count
    max_sites: Count | None = None  # at which ReLUs were allowed; None: all
    relu_count: Count
    relu_total: Count
    sites: tuple[Annotated[ReluSite, PlainSerializer(ReluSite.to_dict)], ...]
    input: InputClaim
    classes: tuple[str, ...]
    training: TrainingClaim
    narrower: tuple[WidthResult, ...] = ()
    precision: str | None = None  # that training was computed in; None: the run is older than this field
    kernels: str | None = None  # of the activations, in words
    seconds: float  # in the training loop
    finished: str  # date

    @model_validator(mode="after")
    def _measured(self) -> Self:
        if self.training.test_accuracy is None or self.training.teacher_test_accuracy is None:
            raise ValueError("the test accuracies of the network and its teacher are missing")
        return self

    @property
    def relu_sites(self) -> int:
        """At how many sites ReLUs stay."""
        return sum(site.kept > 0 for site in self.sites)

    @property
    def test_accuracy(self) -> float:
        assert self.training.test_accuracy is not None
        return self.training.test_accuracy

    @property
    def val_accuracy(self) -> float | None:
        return self.training.val_accuracy

    @property
    def teacher_test_accuracy(self) -> float:
        assert self.training.teacher_test_accuracy is not None
        return self.training.teacher_test_accuracy

    @property
    def teacher_val_accuracy(self) -> float | None:
        return self.training.teacher_val_accuracy

    def write(self) -> None:
        """Write `run.json` last: its presence says that the run is complete."""
        for name, keys in ((BUDGET, _BUDGET_KEYS), (FILE, None)):
            fields = self.model_dump(mode="json", include=keys, exclude_none=keys is not None)
            write_text(self.run_dir / name, json.dumps(fields, indent=2) + "\n")


@dataclass(frozen=True)
class Cost:
    """Of one inference: megabytes on the wire, the opening of secret weights aside; rounds, None where not known."""

    protocol: str
    megabytes: float
    rounds: float | None


@dataclass(frozen=True)
class ComparisonRow:
    """The runs of one method at one budget.

    Args:
        seeds, val_accuracy, test_accuracy: of the runs that ended; in percent.
        diverged: seeds of the others.
        mean, spread: of the test accuracy over seeds, with the sample deviation.
        teacher_mean: test accuracy of the teachers.
        relu_sites: at how many sites ReLUs stay, mean over seeds.
        costs: per protocol, mean over seeds; empty where nobody counted them.
        seconds: of training, mean over seeds.
    """

    method: str
    budget: str
    relu_count: int
    relu_total: int
    degree: int
    seeds: list[int]
    diverged: list[int]
    val_accuracy: list[float | None]
    test_accuracy: list[float]
    mean: float
    spread: float
    teacher_mean: float
    seconds: float
    relu_sites: float
    costs: list[Cost]


def result_file(run: Path) -> Path | None:
    """Where the finished run in folder `run` says what it ended with; None where it has not finished."""
    if (run / FILE).is_file():
        return run / FILE
    old = run / BUDGET  # held all of it before run.json did; read until version 0.2
    return old if old.is_file() and b'"training"' in old.read_bytes() else None


def read_result(run: Path) -> RunResult:
    """What the finished run in folder `run` ended with.

    Raises:
        AurepError: it has not finished, or the file is damaged.
    """
    file = result_file(run)
    if file is None:
        raise AurepError(f"{run} has not finished; go on with aurep train --resume {run}.")
    try:
        fields = json.loads(file.read_bytes())
        return RunResult.model_validate({**fields, "run_dir": run})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise AurepError(f"{file} is damaged at {where}: {first['msg'].lower()}; train the run again.") from None
    except (ValueError, TypeError, RecursionError):
        raise AurepError(f"{file} is not the JSON that aurep train writes; train the run again.") from None
