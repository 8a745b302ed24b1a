"""Ranks of a distributed run see different images; what masks follow from must be the same on all of them."""

from __future__ import annotations

from torch import Tensor
from torch import distributed as dist


def sum_over_ranks(local: Tensor) -> Tensor:
    """The sum of `local` over all ranks, the same bits on each; `local` itself where there is one process."""
    if not (dist.is_available() and dist.is_initialized()):
        return local
    total = local.clone()
    dist.all_reduce(total)
    return total


def rank_count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
