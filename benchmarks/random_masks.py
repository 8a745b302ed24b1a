"""Networks that keep ReLUs at random, where only their number matters."""

from __future__ import annotations

import torch
from torch import nn

from aurep import relu_sites, set_mask


def keep_at_random(model: nn.Module, kept: int, total: int) -> None:
    """Keep `kept` of the prepared model's elements, drawn over all of its sites; they must be `total`."""
    chosen = torch.zeros(total, dtype=torch.bool)
    chosen[torch.randperm(total)[:kept]] = True
    start = 0
    for site in relu_sites(model):
        set_mask(model, site.name, chosen[start : start + site.elements].reshape(site.shape))
        start += site.elements
    assert start == total
