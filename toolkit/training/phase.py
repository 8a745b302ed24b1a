"""What the engine is told to do: one phase of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from aurep.search import Policy
from aurep.surgery import Narrow
from aurep.training.collapse import Standard
from aurep.training.config import PhaseConfig
from aurep.training.losses import LossTerm


@dataclass
class Phase:
    """What to train and how.

    Args:
        name: "baseline", "search" or "finetune".
        model: trained in place.
        config: rates, epochs, loss weights.
        teacher: frozen, in eval mode, run in every step after the model; None for the baseline.
        policy: moves the masks; None leaves them alone.
        terms: added to the loss.
        choose_best: end with the epoch of highest validation accuracy (mean with `narrower`'s) instead of the last.
        measure: gives `model` the statistics of its weights, before it is judged and in the end; None: nothing does.
        standard: what `model` is held to after every epoch; None: nothing.
        narrower: `model` at smaller widths, which share its weights: in every step the loss of each is added.
    """

    name: str
    model: nn.Module
    config: PhaseConfig
    teacher: nn.Module | None = None
    policy: Policy | None = None
    terms: Sequence[LossTerm] = ()
    choose_best: bool = False
    measure: Callable[[nn.Module], None] | None = None
    standard: Standard | None = None
    narrower: Sequence[Narrow] = ()
