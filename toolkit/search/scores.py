"""Saliency: what the loss would lose if an element's ReLU were its polynomial instead, to second order, in training.

For an element with input x, d = relu(x) - p(x), and g_n = dL_n/dy of image n's own loss L_n at its present output y,
with the curvature estimated by g_n^2 (the empirical Fisher information):

    a kept element becomes its polynomial, y -> y - d:   L_n grows by  -g_n d_n + 1/2 g_n^2 d_n^2
    a replaced one gets its ReLU back, y -> y + d:       L_n falls by  -g_n d_n - 1/2 g_n^2 d_n^2

Both say what the ReLU is worth, g being taken at the ReLU's output in the one case, at the polynomial's in the other:

    s = E_n[-g_n d_n +- 1/2 g_n^2 d_n^2],    + where kept, - where replaced

so one that misses its ReLU outranks kept elements again. The step's loss is a mean over N images, its gradient
g = g_n / N, and  s = -sum_n g d +- N / 2 sum_n g^2 d^2.  Scores are averaged exponentially over steps.

The score is of a line: the second-order form with gradients squared for the curvature is Fisher pruning (Theis et al.,
"Faster gaze prediction with dense networks and Fisher pruning", 2018), the first-order term Taylor pruning (Molchanov
et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017, and "Importance Estimation
for Neural Network Pruning", CVPR 2019), and ReLUPruner (AAAI 2026) scores ReLUs to second order. They ask what the
removal of something present costs. New here are the reference, each site's own polynomial as it is trained, and the
score of what is gone already, with its own sign, by which an exact count can be held while elements come and go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aurep.activation import HybridActivation
from aurep.distributed import rank_count, sum_over_ranks


class SaliencyScores:
    """Scores of all elements of `sites`, fed by hooks in every training step until `close`.

    `values` has one tensor per site.

    Args:
        decay: weight of the past in the running average.
    """

    def __init__(self, sites: Sequence[HybridActivation], decay: float) -> None:
        self.sites, self.decay = sites, decay
        self.values = [torch.zeros_like(site.alpha, requires_grad=False) for site in sites]
        self._terms: dict[int, tuple[Tensor, Tensor]] = {}
        self._images: dict[int, int] = {}  # that the terms are of
        self._probe = torch.zeros((), device=sites[0].alpha.device, requires_grad=True)
        self._hooks = [
            site.register_forward_hook(lambda m, args, y, k=k: self._follow(k, m, args[0], y))
            for k, site in enumerate(sites)
        ]

    def probe(self) -> Tensor:
        """A term of the loss, of value 0: its gradient is the factor that fp16 training multiplies the loss by."""
        return self._probe

    def _follow(self, k: int, site: nn.Module, x: Tensor, y: Tensor) -> None:
        if site.training and y.requires_grad:
            kept_x = x.detach()
            y.register_hook(lambda gradient: self._observe(k, kept_x, gradient))

    @torch.no_grad()
    def _observe(self, k: int, x: Tensor, gradient: Tensor) -> None:
        x, site = x.to(self.values[k].dtype), self.sites[k]
        change = gradient.to(x.dtype) * (x.relu() - site.polynomial(x))
        second = change.square().sum(0) * (len(x) / 2)
        first, second, images = change.sum(0), torch.where(site.mask, second, -second), len(x)
        if k in self._terms:  # a batch in parts: N is the images of all of them
            before, seen = self._terms[k], self._images[k]
            first, images = before[0] + first, seen + images
            second = (before[1] / seen + second / len(x)) * images
        self._terms[k], self._images[k] = (first, second), images

    @torch.no_grad()
    def update(self) -> None:
        """Take the step's gradients into the average; called once after every step."""
        scale = 1.0 if self._probe.grad is None else self._probe.grad.clone()
        self._probe.grad = None
        for k, (first, second) in self._terms.items():
            score = sum_over_ranks(second / scale**2 - first / scale) / rank_count()
            moved = self.decay * self.values[k] + (1 - self.decay) * score
            # A step whose fp16 gradients overflowed is skipped by the scaler, and tells nothing here either.
            self.values[k] = torch.where(torch.isfinite(moved), moved, self.values[k])
        self._terms.clear()

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.values = [stored.to(old) for old, stored in zip(self.values, state["values"], strict=True)]
