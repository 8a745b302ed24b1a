"""A whole run small enough for a test: digits (8x8), ResNet-9 of width 4, seconds on one core."""

from __future__ import annotations

from typing import Any

from aurep.training.config import Config, parse_config

RECIPE = """
[model]
name = "resnet9"
width = 4
[data]
name = "digits"
pad = 1
flip = false
[train]
batch_size = 64
device = "cpu"
[baseline]
epochs = 2
[search]
budget = "10%"
epochs = 2
calibration = 256
[finetune]
epochs = 2
"""


def tiny_config(**overrides: Any) -> Config:
    """The recipe with `section__key=value` overrides."""
    return parse_config(RECIPE, "tiny", [f"{key.replace('__', '.')}={value}" for key, value in overrides.items()])
