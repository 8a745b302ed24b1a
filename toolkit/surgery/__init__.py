"""Rewriting networks through torch.fx: hybrid activations at activation calls, and what is done to such a network.

`preparation` puts the sites in, `sites` and `statistics` work with them; `slimming` makes narrower networks of one,
`fusion`, `norms` and `recompute` the network that is trained in its place, `folding` what a frozen one is run as.
"""

from aurep.surgery.folding import folded
from aurep.surgery.fusion import fuse
from aurep.surgery.norms import sync_norms
from aurep.surgery.preparation import prepare, tap_activations
from aurep.surgery.recompute import recomputed
from aurep.surgery.sites import (
    fit_polynomials,
    hybrid_sites,
    normalise_like,
    normalise_polynomials,
    relu_sites,
    set_mask,
)
from aurep.surgery.slimming import Narrow, add_narrower, narrowed, narrower
from aurep.surgery.statistics import measure_statistics

__all__ = [
    "Narrow",
    "add_narrower",
    "fit_polynomials",
    "folded",
    "fuse",
    "hybrid_sites",
    "measure_statistics",
    "narrowed",
    "narrower",
    "normalise_like",
    "normalise_polynomials",
    "prepare",
    "recomputed",
    "relu_sites",
    "set_mask",
    "sync_norms",
    "tap_activations",
]
