"""VGG-16 with batch norm (Simonyan & Zisserman, 2015, arXiv:1409.1556), for small images: one linear layer as head.

Its five max-pools compare as well: they are no ReLUs and not in the ReLU total (276,480 at 32x32), but cost alike.
"""

from __future__ import annotations

from torch import Tensor, nn

CONVOLUTIONS = (2, 2, 3, 3, 3)  # per stage, a max-pool behind each
WIDENING = (1, 2, 4, 8, 8)  # a stage's channels, in units of the first's


class ConvBlock(nn.Module):
    """3x3 convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, channels, H, W)."""
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out


class VGG16(nn.Module):
    """Thirteen convolutions in five stages, global average pooling, one linear layer.

    Args:
        num_classes: logits.
        in_channels: channels of the input image, which is at least 32 pixels high and wide.
        width: channels of the first stage.
    """

    def __init__(self, *, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        channels = in_channels
        for convolutions, widening in zip(CONVOLUTIONS, WIDENING, strict=True):
            blocks: list[nn.Module] = []
            for _ in range(convolutions):
                blocks.append(ConvBlock(channels, widening * width))
                channels = widening * width
            stages.append(nn.Sequential(*blocks, nn.MaxPool2d(2)))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)."""
        out: Tensor = self.fc(self.pool(self.stages(x)).flatten(1))
        return out
