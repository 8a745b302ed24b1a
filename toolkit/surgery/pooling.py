"""Max-pooling compares k - 1 times per output; `maxpool="avg"` takes the mean of the same windows instead, for free."""

from __future__ import annotations

from torch import nn

from aurep.errors import AurepError


def average_pool(pool: nn.MaxPool2d | nn.AdaptiveMaxPool2d) -> nn.AvgPool2d | nn.AdaptiveAvgPool2d:
    """Average-pooling over the windows of `pool`, counting no padding."""
    if pool.return_indices:
        raise AurepError("a max-pooling returns indices, which average-pooling has none of; use maxpool='max'.")
    if isinstance(pool, nn.AdaptiveMaxPool2d):
        return nn.AdaptiveAvgPool2d(pool.output_size)
    if pool.dilation not in (1, (1, 1)):
        raise AurepError(f"a max-pooling has dilation {pool.dilation}, which average-pooling lacks; use maxpool='max'.")
    stride = pool.stride if pool.stride is not None else pool.kernel_size
    return nn.AvgPool2d(pool.kernel_size, stride, pool.padding, pool.ceil_mode, count_include_pad=False)


def average_pools(model: nn.Module) -> None:
    """Swap every max-pooling module of `model`, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.MaxPool2d | nn.AdaptiveMaxPool2d):
                setattr(parent, name, average_pool(child))
