"""Wide ResNets with pre-activation blocks (Zagoruyko & Komodakis, 2016, arXiv:1605.07146), for small images.

Published ReLU totals for WRN-22-8 differ by the ReLU behind the last batch norm: 1,359,872 elements at 32x32 without
it, 1,392,640 with it. Without is the default here: the last batch norm then goes straight into the average pool.
"""

from __future__ import annotations

from torch import Tensor, nn

STEM_CHANNELS = 16  # constant in the paper, whatever the widening factor


class PreActivationBlock(nn.Module):
    """bn-relu-conv-bn-relu-conv with a shortcut; where shapes change, a 1x1 shortcut from behind the first ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, channels, H / stride, W / stride)."""
        active = self.relu1(self.bn1(x))
        inner = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        out: Tensor = inner + (x if self.shortcut is None else self.shortcut(active))
        return out


class WideResNet(nn.Module):
    """A stem of 16 channels and three groups of pre-activation blocks with width, 2 x width and 4 x width channels.

    Args:
        depth: 6 n + 4 for n blocks per group, e.g. 22.
        num_classes: logits.
        in_channels: channels of the input image.
        width: channels of the first group (16 x the paper's widening factor: 128 for WRN-22-8).
        stem_relu: put a ReLU behind the last batch norm. The stem itself never has one; the flag carries the name it
            has for the other nets, where it also separates the two totals found in the literature.
    """

    def __init__(self, depth: int, *, num_classes: int, in_channels: int, width: int, stem_relu: bool = False) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(in_channels, STEM_CHANNELS, 3, 1, 1, bias=False)
        self.group1 = _group(STEM_CHANNELS, width, blocks, 1)
        self.group2 = _group(width, 2 * width, blocks, 2)
        self.group3 = _group(2 * width, 4 * width, blocks, 2)
        self.bn = nn.BatchNorm2d(4 * width)
        self.relu: nn.Module = nn.ReLU() if stem_relu else nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)."""
        x = self.group3(self.group2(self.group1(self.conv1(x))))
        out: Tensor = self.fc(self.pool(self.relu(self.bn(x))).flatten(1))
        return out


def _group(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreActivationBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(PreActivationBlock(channels, channels, 1) for _ in range(blocks - 1)))
