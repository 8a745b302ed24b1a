"""For a training loop of one's own: a search method on a prepared network, and the optimiser that suits both."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from aurep.budget import parse_budget
from aurep.search import Policy, check_options, make_policy
from aurep.search.masks import total_elements
from aurep.surgery import hybrid_sites
from aurep.training.config import SearchConfig
from aurep.training.optim import make_optimizer


def start_policy(
    model: nn.Module, method: str, budget: int | str, *, steps: int, seed: int = 0, **options: Any
) -> Policy:
    """The search `method` on the sites of `model`, started: all elements are kept.

    Args:
        model: a prepared model.
        budget: elements that may stay ReLU at the end: 12900, "12.9k", or a share such as "5%".
        steps: optimiser steps of the search.
        options: the method's own, as in [search.options].

    Raises:
        AurepError: an unknown method or option, or a budget above the model's elements.
    """
    sites = hybrid_sites(model)
    allowed = parse_budget(budget, total_elements(sites))
    policy = make_policy(method, sites, allowed, check_options(method, options), seed, steps=steps)
    policy.start()
    return policy


def student_optimizer(
    model: nn.Module, policy: Policy, lr: float, *, coefficient_lr: float | None = None
) -> torch.optim.Optimizer:
    """AdamW for weights, polynomials (at `coefficient_lr`, `lr` if None) and whatever `policy` trains, at its rates."""
    config = SearchConfig(lr=lr, coefficient_lr=lr if coefficient_lr is None else coefficient_lr)
    return make_optimizer(model, config, policy.parameter_groups())
