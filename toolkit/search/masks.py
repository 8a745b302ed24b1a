"""Masks over all sites at once: exact counts by ranking."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aurep.activation import HybridActivation


@torch.no_grad()
def keep_top(sites: Sequence[HybridActivation], scores: Sequence[Tensor], count: int) -> None:
    """Keep exactly the `count` elements of highest score over all `sites`; `scores` has one tensor per site."""
    flat = torch.cat([score.reshape(-1) for score in scores])
    kept = torch.zeros(flat.numel(), dtype=torch.bool, device=flat.device)
    kept[torch.topk(flat, count, sorted=False).indices] = True
    parts = torch.split(kept, [site.mask.numel() for site in sites])
    for site, part in zip(sites, parts, strict=True):
        site.mask.copy_(part.view(site.shape))


def total_elements(sites: Sequence[HybridActivation]) -> int:
    return sum(site.mask.numel() for site in sites)


def kept_elements(sites: Sequence[HybridActivation]) -> int:
    return int(torch.stack([site.mask.sum() for site in sites]).sum())


def scheduled_count(budget: int, total: int, progress: float, settle: float) -> int:
    """Elements kept at `progress` in [0, 1]: a cubic from `total` down to `budget`, reached at `settle`.

    Source: Zhu and Gupta, "To prune, or not to prune", 2017.
    """
    remaining = max(0.0, 1.0 - progress / settle) ** 3
    return budget + round((total - budget) * remaining)
