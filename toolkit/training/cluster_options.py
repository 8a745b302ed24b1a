"""What a job of a comparison may use on a Slurm cluster."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aurep.errors import AurepError
from aurep.training.config import toml_value

_TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d+):(\d+)")


class ClusterOptions(BaseModel):
    """Options of `--slurm`. Any other key is handed to sbatch: account, qos, constraint, mail-user ..."""

    model_config = ConfigDict(extra="allow", frozen=True)

    partition: str | None = None
    time: int | str = "24:00:00"  # of one job: minutes, or [days-]hours:minutes:seconds; out of time, it is requeued
    gpus: Literal[0, 1] = 1  # per job, which is one process; 0 where the recipe trains on CPUs
    cpus: int = Field(4, ge=1)  # per job
    mem: str | None = None  # per job, such as 32GB
    parallel: int = Field(16, ge=1)  # jobs at the same time
    requeues: int = Field(100, ge=0)  # of one job, after its time ran out; preempted, it is requeued however often
    warning: int = Field(120, ge=1)  # seconds between the signal that its time ends and its end
    setup: list[str] = []  # lines of shell before the job starts, such as "module load cuda"

    @property
    def minutes(self) -> int:
        """`time`, rounded up.

        Raises:
            AurepError: it is neither of the two forms, or nothing.
        """
        text = str(self.time)
        parts = _TIME.fullmatch(text)
        if parts:
            days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
            total = (days * 24 + hours) * 60 + minutes + -(-seconds // 60)
        else:
            total = int(text) if text.isdigit() else 0
        if not total:
            raise AurepError(f"--slurm time={text} is neither minutes nor [days-]hours:minutes:seconds.")
        return total

    def of_submitit(self) -> dict[str, Any]:
        """The parameters of submitit's AutoExecutor."""
        return {
            "name": "aurep",
            "timeout_min": self.minutes,
            "gpus_per_node": self.gpus,
            "cpus_per_task": self.cpus,
            "slurm_srun_args": [f"--cpus-per-task={self.cpus}"],  # Slurm 22.05 to 23.02: srun does not take the job's
            "slurm_partition": self.partition,
            "slurm_mem": self.mem,
            "slurm_array_parallelism": self.parallel,
            "slurm_signal_delay_s": self.warning,
            "slurm_setup": self.setup or None,
            "slurm_additional_parameters": self.model_extra or None,
        }


def read_options(given: Sequence[str]) -> ClusterOptions:
    """Options from `KEY=VALUE` texts and TOML files of them; a later one wins.

    Raises:
        AurepError: a file that is not TOML, or a value that is not valid.
    """
    fields: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        try:
            fields |= {key.strip(): _value(value.strip())} if equals else tomllib.loads(Path(text).read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise AurepError(f"--slurm {text} is neither KEY=VALUE nor a TOML file: {error}.") from None
    try:
        options = ClusterOptions.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        said = f"{first['msg'][:1].lower()}{first['msg'][1:]}"
        raise AurepError(f"--slurm {first['loc'][0]}={first['input']!r} is not valid: {said}.") from None
    options.of_submitit()  # a bad time is refused here, before anything is submitted
    return options


def _value(text: str) -> Any:
    """A number, list or boolean where it is one in TOML; else the text itself."""
    value = toml_value(text)
    return value if isinstance(value, int | str | list) else text  # 02:30:00 is a time of day in TOML
