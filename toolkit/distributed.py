"""Sums over the ranks of a distributed run, each of which sees other images."""

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
