"""The running statistics of a network, measured anew.

Running statistics trail the weights: they are of the last dozens of batches, each seen by other weights. A network of
one averaged set of weights (Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI
2018) has none at all, and a deep network of polynomials forgives statistics that are off with an infinite output.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from aurep.activation import follow
from aurep.modes import evaluating
from aurep.surgery.sites import hybrid_sites, inputs
from aurep.surgery.slimming import narrower


@torch.no_grad()
def measure_statistics(model: nn.Module, batches: Iterable[Any], max_batches: int | None = None) -> None:
    """Set the statistics of batch norms and of normalised polynomials to the medians of those of `batches`.

    Medians, since a single image with an outlier has a batch's variance a million times the usual.

    Args:
        model: its batch norms and sites compute with the batch's statistics meanwhile, as they do in training; all
            else, such as dropout, as in evaluation. Modes are restored. Narrower networks of it are measured along.
        batches: inputs (N, C, H, W), or tuples whose first item they are; N as in training.
        max_batches: stop after so many.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    sites = [site for site in hybrid_sites(model) if site.factors is not None]
    of_norms = [each for norm in norms for each in (norm.running_mean, norm.running_var) if each is not None]
    of_sites = [site.statistics for site in sites if site.statistics is not None]
    momenta, found = [norm.momentum for norm in norms], []
    follow(hybrid_sites(model))  # weights may be new
    try:
        with evaluating(model):
            for module in (*norms, *sites):
                module.training = True
            for norm in norms:
                norm.momentum = 1.0  # running statistics are the last batch's
            for x in inputs(model, islice(batches, max_batches)):
                for running in of_norms:
                    running.zero_()  # none of NaN is NaN
                for network in (model, *narrower(model)):
                    network(x)
                found.append([each.clone() for each in of_norms] + [site.take_seen() for site in sites])
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    for statistics, each in zip([*of_norms, *of_sites], zip(*found, strict=True), strict=False):
        statistics.copy_(torch.stack(each).nan_to_num(torch.inf).median(0).values)
    follow(hybrid_sites(model))
