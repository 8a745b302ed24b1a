"""A budget that also names a number of sites: ReLUs stay at K sites at most, whatever the method.

A protocol's rounds grow with the sites that compare, not with the elements that do: one kept ReLU at a site costs its
rounds as much as all of them. So K sites are chosen once, before the search. There the method searches as ever, under
the budget B or, if that is less, what these sites hold; at all others every element becomes its polynomial, in random
order on the cubic schedule of the other searches.

The choice is by the saliency score of `aurep.search.scores`, of the fitted network with all ReLUs kept, averaged over
calibration batches. A set S of sites is worth its B best elements, with s_+ = max(s, 0):

    f(S) = the sum of the B largest s_+ over the elements of all sites in S

and sites are taken one by one, each time the one that raises f most (the larger one where two are equal). f is monotone
and submodular, so the greedy choice reaches at least 1 - 1/e of the best K sites' worth (Nemhauser, Wolsey and Fisher,
"An analysis of approximations for maximizing submodular set functions", 1978). What it does not see: that weights will
adapt, and that polynomials of many elements act together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aurep.activation import HybridActivation
from aurep.errors import AurepError
from aurep.modes import evaluating
from aurep.search.baselines import Random, ScheduleOptions
from aurep.search.masks import kept_elements, total_elements
from aurep.search.policy import Policy
from aurep.search.scores import SaliencyScores


def choose_sites(
    model: nn.Module,
    sites: Sequence[HybridActivation],
    batches: Iterable[tuple[Tensor, Tensor]],
    budget: int,
    max_sites: int,
) -> list[int]:
    """The indices, ascending, of the at most `max_sites` sites to keep `budget` ReLU elements at.

    Args:
        model: the prepared network, polynomials fitted, all elements kept; it runs in eval mode and stays as it is.
        sites: all of its sites.
        batches: images (N, C, H, W) and labels (N,), as large as training's.

    Raises:
        AurepError: `max_sites` is negative, or there is no batch to choose by.
    """
    if max_sites < 0:
        raise AurepError(f"ReLUs cannot stay at {max_sites} sites; 0, every activation a polynomial, is the least.")
    if max_sites >= len(sites):
        return list(range(len(sites)))
    if not max_sites or not budget:
        return []
    return best_sites(_scores(model, sites, batches), budget, max_sites)


def best_sites(scores: Sequence[Tensor], budget: int, most: int) -> list[int]:
    """The greedy choice of `most` sites by the `scores` of their elements, as indices in ascending order."""
    worth = [score.flatten().double().clamp_min(0) for score in scores]
    best = [values.topk(min(budget, len(values))).values for values in worth]
    chosen: list[int] = []
    kept = best[0][:0]
    for _ in range(most):
        found = {k: torch.cat([kept, own]) for k, own in enumerate(best) if k not in chosen}
        found = {k: values.topk(min(budget, len(values))).values for k, values in found.items()}
        chosen.append(max(found, key=lambda k: (float(found[k].sum()), len(worth[k]))))
        kept = found[chosen[-1]]
    return sorted(chosen)


def _scores(
    model: nn.Module, sites: Sequence[HybridActivation], batches: Iterable[tuple[Tensor, Tensor]]
) -> list[Tensor]:
    scores, seen = SaliencyScores(sites, decay=0.0), 0
    device = sites[0].mask.device
    with evaluating(model):
        for site in sites:
            site.train()  # scores are of sites in training alone
        for x, y in batches:
            images = x.to(device).requires_grad_(True)
            torch.autograd.grad(F.cross_entropy(model(images), y.to(device)), images)
            scores.decay = seen / (seen + 1)  # a plain mean
            scores.update()
            seen += 1
    scores.close()
    if not seen:
        raise AurepError("there is no batch of images to choose the sites of ReLUs by; give at least one.")
    return scores.values


class FewSites(Policy):
    """A search by `inner` at the sites `chosen`, while the others turn into their polynomials.

    `budget` becomes what `inner` may keep.
    """

    def __init__(
        self,
        inner: type[Policy],
        chosen: Sequence[int],
        sites: Sequence[HybridActivation],
        budget: int,
        options: Any,
        seed: int,
        *,
        steps: int,
    ) -> None:
        """`chosen` are indices of `sites`, at least one and not all; the rest as for `inner` over all of them."""
        super().__init__(sites, budget, options, seed, steps=steps)
        self.chosen = list(chosen)
        own = [self.sites[k] for k in self.chosen]
        self.budget = min(self.budget, total_elements(own))
        self.inner = inner(own, self.budget, inner.options_at(self.options, self.chosen), self.seed, steps=steps)
        rest = [site for k, site in enumerate(self.sites) if k not in set(self.chosen)]
        self.others = Random(rest, 0, ScheduleOptions(), self.seed, steps=steps)
        self.uses_teacher = self.inner.uses_teacher

    def watch(self, teacher: nn.Module, activations: Sequence[nn.Module]) -> None:
        self.inner.watch(teacher, [activations[k] for k in self.chosen])

    def start(self) -> None:
        self.inner.start()

    def parameter_groups(self) -> list[dict[str, Any]]:
        return self.inner.parameter_groups()

    def penalty(self) -> Tensor | None:
        return self.inner.penalty()

    def after_step(self, progress: float) -> None:
        self.inner.after_step(progress)
        self.others.after_step(progress)

    def finish(self) -> None:
        left = kept_elements(self.others.sites)
        self.inner.finish()
        self.others.finish()
        self.found = None if self.inner.found is None else self.inner.found + left

    def state_dict(self) -> dict[str, Any]:
        return {"chosen": self.chosen, "inner": self.inner.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
