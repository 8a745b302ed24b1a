"""The files of a run folder, and a checkpoint that survives a kill at any moment.

`last.safetensors` (weights and masks) and `last.state` (everything else) belong together: the state holds the weights'
sha256. They are renamed into place one after the other, weights first and with the previous weights kept, so whichever
moment a kill hits, the state on disk still finds its weights.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from aurep.errors import AurepError
from aurep.files import replacing, sha256, write_bytes
from aurep.results import result_file


class RunFolder:
    """Paths of a run. Rank 0 writes; every rank reads."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.toml"
        self.metrics = self.path / "metrics.csv"
        self.teacher = self.path / "teacher.safetensors"
        self.weights = self.path / "last.safetensors"
        self.previous = self.path / "last.previous.safetensors"
        self.state = self.path / "last.state"
        self.model = self.path / "model.safetensors"
        self.samples = self.path / "samples.npz"
        self.report = self.path / "report.html"

    @property
    def finished(self) -> bool:
        return result_file(self.path) is not None

    def save_checkpoint(self, model: nn.Module, state: dict[str, Any]) -> None:
        with replacing(self.weights) as temporary:
            temporary.write_bytes(save(portable(model)))
            state = {**state, "weights_sha256": sha256(temporary)}
            if self.weights.exists():
                with replacing(self.previous) as spare:
                    spare.unlink()
                    os.link(self.weights, spare)
        with replacing(self.state) as temporary:
            torch.save(state, temporary)

    def load_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and state of the last checkpoint.

        Raises:
            AurepError: there is none, it is damaged, or its weights are missing.
        """
        if not self.state.exists():
            raise AurepError(f"{self.path} holds no checkpoint (last.state); start the run again without --resume.")
        try:
            state: dict[str, Any] = torch.load(self.state, weights_only=True, map_location="cpu")
        except Exception as error:  # torch.load raises whatever the damage makes it trip over
            raise AurepError(f"{self.state} is damaged ({type(error).__name__}); start the run again.") from error
        for candidate in (self.weights, self.previous):
            if candidate.exists() and sha256(candidate) == state["weights_sha256"]:
                return load_file(candidate), state
        raise AurepError(f"{self.path}: no weights belong to last.state; start the run again.")

    def drop_checkpoint(self) -> None:
        """After the final model is written: what only a resume needs."""
        self.previous.unlink(missing_ok=True)


def portable(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict on the CPU, each tensor contiguous in its logical order (safetensors knows no other)."""
    state = model.state_dict()
    return {k: v.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for k, v in state.items()}


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    write_bytes(path, save(weights))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Raises AurepError where the file is missing or not safetensors."""
    if not path.is_file():
        raise AurepError(f"{path} does not exist; expected weights in a safetensors file.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise AurepError(f"{path} is not a readable safetensors file ({error}).") from None


def load_weights(model: nn.Module, weights: dict[str, Tensor], origin: str | os.PathLike[str]) -> None:
    """Load `weights` into `model`, every key and shape matching, or raise AurepError naming the first that does not."""
    expected = model.state_dict()
    for name in [*expected, *weights]:
        if name not in weights or name not in expected:
            where = "is missing from" if name in expected else "is unknown to the model but in"
            raise AurepError(f"weight {name!r} {where} {origin}; it belongs to another model or configuration.")
        if weights[name].shape != expected[name].shape:
            found, wanted = tuple(weights[name].shape), tuple(expected[name].shape)
            raise AurepError(f"weight {name!r} in {origin} has shape {found}, the model expects {wanted}.")
    model.load_state_dict(weights)
