"""CIFAR ResNets of basic blocks (He et al., 2016, arXiv:1512.03385), for small images: 3x3 stem, no max-pool.

Two families. ResNet-9, -18 and -34 have four stages; published totals for "ResNet-18" at 32x32 are 491,520 elements
without the stem's 65,536 and 557,056 with them, and `stem_relu` chooses between the two. ResNet-20, -32 and -56 are
the paper's own CIFAR networks: three stages that start at 16 channels, and a stem with a ReLU, which their published
totals count. Where shapes change, shortcuts are 1x1 convolutions with a batch norm in both.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; a ReLU after the first and one after the addition."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, channels, H / stride, W / stride)."""
        inner = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(inner + self.shortcut(x))
        return out


class ResNet(nn.Module):
    """A stem and stages of basic blocks; channels double and the image halves from stage to stage.

    Args:
        blocks: basic blocks per stage, e.g. (2, 2, 2, 2) for ResNet-18, (3, 3, 3) for ResNet-20.
        num_classes: logits.
        in_channels: channels of the input image.
        width: channels of the first stage.
        stem_relu: put a ReLU after the stem's batch norm.
    """

    def __init__(
        self, blocks: Sequence[int], *, num_classes: int, in_channels: int, width: int, stem_relu: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu: nn.Module = nn.ReLU() if stem_relu else nn.Identity()
        self.stages = [f"layer{number}" for number in range(1, len(blocks) + 1)]
        channels = width
        for number, (name, count) in enumerate(zip(self.stages, blocks, strict=True)):
            before, channels = channels, width * 2**number
            self.add_module(name, _stage(before, channels, count, stride=1 if number == 0 else 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = getattr(self, name)(x)
        out: Tensor = self.fc(self.pool(x).flatten(1))
        return out


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))
