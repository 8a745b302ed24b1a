"""What a phase ends with: the weights of its last step or their running average, of its last or its best epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import mean
from typing import Any

from torch import Tensor, nn

from aurep.training.average import Average
from aurep.training.checkpoint import portable


class Outcome:
    """Follows the training of `model`, and in the end gives it the weights that count.

    Args:
        decay: per step of the running average; 0: none, the weights count as they are.
        choose_best: the epoch of highest validation accuracy counts instead of the last.
        measure: gives a model the statistics of its weights; None: those it has are they.
    """

    def __init__(
        self, model: nn.Module, decay: float, choose_best: bool, measure: Callable[[nn.Module], None] | None = None
    ) -> None:
        self.model, self.choose_best, self.measure = model, choose_best, measure
        self._average = Average(model, decay) if decay else None
        self._best: dict[str, Tensor] | None = None
        self._best_accuracy = -1.0

    def follow(self) -> None:
        """Called after every optimiser step."""
        if self._average:
            self._average.update()

    @contextmanager
    def judged(self) -> Iterator[None]:
        """The model is what its present epoch counts as inside the block."""
        if self._average is None and self.measure is None:
            yield
            return
        own = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self._turn()
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def _turn(self) -> None:
        """The model becomes what counts."""
        if self._average:
            self._average.take()
        if self.measure:
            self.measure(self.model)

    def offer(self, accuracies: Sequence[float]) -> None:
        """Within `judged`, after an epoch: validation accuracies, of which the mean decides; empty: there are none."""
        if self.choose_best and accuracies and mean(accuracies) > self._best_accuracy:
            self._best_accuracy, self._best = mean(accuracies), portable(self.model)

    def settle(self) -> None:
        """The model becomes what counts, after the last epoch."""
        if self._best is not None:
            self.model.load_state_dict(self._best)
        else:
            self._turn()

    def state_dict(self) -> dict[str, Any]:
        average = self._average.state_dict() if self._average else None
        return {"average": average, "best": self._best, "best_accuracy": self._best_accuracy}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, which may lie on the CPU."""
        if self._average:
            self._average.load_state_dict(state["average"])
        self._best, self._best_accuracy = state["best"], state["best_accuracy"]
