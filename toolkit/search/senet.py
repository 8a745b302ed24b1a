"""SENet: a ReLU budget per layer from its sensitivity, then the elements where student and teacher differ most.

Source: Kundu et al., "Learning to Linearize Deep Neural Networks for Secure and Efficient Private Inference" (SENet),
ICLR 2023. Three stages:

1. Layer budgets r_l = min(capacity_l, k eta_l), summing to B (see `aurep.search.sensitivity`, `aurep.search.shares`).
2. Masks, here: r_l random elements of each layer at the start. The search has `updates` parts, published one per epoch.
   Over a part, each element sums |teacher's - student's| output over all images; at its end the top r_l of each layer
   are kept. Once the masks hardly change, they are frozen: elements that changed <= `stop_distance` * 2 B (a kept
   element that moves changes two). The rest of the search trains the weights. A short search has fewer parts, each of
   at least `part_steps`: differences over a few images are of those images alone.
3. Finetuning with CE, KL and PRAM: finetune.ce_weight, kd_weight and pram_weight, published as 0.1, 0.5 and 1000.

Replaced elements become the identity; any degree on request. SENet++ is `search.width_multipliers` (see
`aurep.surgery.slimming`), which the search, like the finetuning, trains together; the masks are the full width's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from aurep.activation import HybridActivation
from aurep.distributed import sum_over_ranks
from aurep.errors import AurepError
from aurep.search.lengths import due
from aurep.search.masks import keep_top
from aurep.search.policy import Policy
from aurep.search.sensitivity import layer_weights, magnitude_sensitivities, pruned_sensitivities, read_pruned
from aurep.search.shares import water_fill

Sensitivity = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SenetOptions(BaseModel):
    """[search.options] of senet."""

    model_config = ConfigDict(extra="forbid")

    eta: list[Sensitivity] | None = None  # per site; None: measured on a pruned network
    pruned: str | None = None  # its weights, a safetensors file; None: the teacher's, pruned by magnitude
    density: Annotated[float, Field(gt=0, lt=1)] = 0.1  # of the weights of a teacher pruned so
    updates: Annotated[int, Field(ge=1)] = 150  # of the masks
    part_steps: Annotated[int, Field(ge=1)] = 20  # as few as these between two updates
    stop_distance: Annotated[float, Field(ge=0, le=1)] = 0.01


class Senet(Policy):
    """See the module docstring."""

    Options: ClassVar[type[BaseModel]] = SenetOptions
    default_degree: ClassVar[Literal[0, 1, 2]] = 0
    uses_teacher = True

    def __init__(
        self, sites: Sequence[HybridActivation], budget: int, options: SenetOptions, seed: int, *, steps: int
    ) -> None:
        super().__init__(sites, budget, options, seed, steps=steps)
        if options.eta is not None and len(options.eta) != len(sites):
            names = ", ".join(site.site for site in sites)
            raise AurepError(
                f"search.options.eta has {len(options.eta)} numbers but the model has {len(sites)} sites; "
                f"give one for each of {names}."
            )
        if options.eta is not None and options.pruned is not None:
            raise AurepError("search.options.eta and search.options.pruned both give sensitivities; give one of them.")
        self._pruned = read_pruned(options.pruned) if options.pruned is not None else None
        self.layer_budgets: list[int] = []
        self.frozen = False
        self.differences = [torch.zeros_like(site.alpha, requires_grad=False) for site in sites]
        self._outputs: dict[int, Tensor] = {}
        self._hooks: list[Any] = []

    @classmethod
    def options_at(cls, options: Any, chosen: Sequence[int]) -> Any:
        eta = options.eta
        return options if eta is None else options.model_copy(update={"eta": [eta[k] for k in chosen]})

    def watch(self, teacher: nn.Module, activations: Sequence[nn.Module]) -> None:
        eta = self._sensitivities(teacher, activations)
        self.layer_budgets = water_fill([site.mask.numel() for site in self.sites], eta, self.budget)
        for k, (site, activation) in enumerate(zip(self.sites, activations, strict=True)):
            self._hooks += [
                site.register_forward_hook(lambda m, _, y, k=k: self._seen(k, m, y)),
                activation.register_forward_hook(lambda _m, _, y, k=k: self._compare(k, y)),
            ]

    def start(self) -> None:
        draw = torch.Generator().manual_seed(self.seed)
        self._keep([torch.rand(site.shape, generator=draw).to(site.mask.device) for site in self.sites])

    def _sensitivities(self, teacher: nn.Module, activations: Sequence[nn.Module]) -> Sequence[float]:
        eta: list[float] | None = self.options.eta
        if eta is not None:
            return eta
        groups = layer_weights(teacher, activations)
        if self._pruned is not None:
            return pruned_sensitivities(groups, self._pruned, self.options.pruned)
        return magnitude_sensitivities(groups, self.options.density)

    def _seen(self, k: int, site: nn.Module, output: Tensor) -> None:
        if site.training:
            self._outputs[k] = output.detach()

    @torch.no_grad()
    def _compare(self, k: int, wanted: Tensor) -> None:
        if (output := self._outputs.pop(k, None)) is not None:
            self.differences[k] += (wanted.float() - output.float()).abs().sum(0)

    def _keep(self, scores: Sequence[Tensor]) -> None:
        for site, score, count in zip(self.sites, scores, self.layer_budgets, strict=True):
            keep_top([site], [score], count)

    def after_step(self, progress: float) -> None:
        updates = max(1, min(self.options.updates, self.steps // self.options.part_steps))
        if not self.frozen and due(round(progress * self.steps), self.steps, updates):
            self._update()

    @torch.no_grad()
    def _update(self) -> None:
        before = [site.mask.clone() for site in self.sites]
        self._keep([sum_over_ranks(difference) for difference in self.differences])
        for difference in self.differences:
            difference.zero_()
        changed = sum(int((site.mask != old).sum()) for site, old in zip(self.sites, before, strict=True))
        if changed <= self.options.stop_distance * 2 * self.budget:
            self.finish()

    def finish(self) -> None:
        self.frozen = True
        for hook in self._hooks:
            hook.remove()
        self._outputs.clear()

    def state_dict(self) -> dict[str, Any]:
        return {"differences": self.differences, "frozen": self.frozen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for own, stored in zip(self.differences, state["differences"], strict=True):
            own.copy_(stored)
        if state["frozen"]:
            self.finish()
