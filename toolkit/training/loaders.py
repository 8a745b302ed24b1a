"""The loaders of a run: which images a phase trains on, and evaluation's."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric

from aurep.data import ImageData
from aurep.data.loader import Loader, make_loader
from aurep.training.config import Config
from aurep.training.engine import derive

LAYOUT = torch.channels_last  # of images and convolution weights: the faster one on CPU and GPU alike
_BATCH, _SIDE = 500, 96  # images of an evaluation batch, fewer where they have more than so many pixels a side


def training_loader(config: Config, data: ImageData, split: str, phase: str, fabric: Fabric) -> Loader:
    """`split` shuffled and augmented, each rank its share, for one phase."""
    return make_loader(
        data,
        split,
        workers=config.data.workers,
        batch_size=config.train.batch_size,
        device=fabric.device,
        train=True,
        augment=config.data.augment,
        seed=derive(config.train.seed, "data", phase),
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        memory_format=LAYOUT,
    )


def evaluation_loader(config: Config, data: ImageData, split: str, fabric: Fabric) -> Loader:
    """All of `split` in order, on every rank."""
    _, height, width = data.image_shape
    return make_loader(
        data,
        split,
        workers=config.data.workers,
        batch_size=max(1, min(_BATCH, _BATCH * _SIDE**2 // (height * width))),
        device=fabric.device,
        train=False,
        memory_format=LAYOUT,
    )
