"""What a configuration stands for: devices and processes, data, the plain network, and the one with hybrid sites."""

from __future__ import annotations

import atexit
import os
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch import Tensor, nn

from aurep.data import ImageData, load_data
from aurep.data.memory import available_memory
from aurep.models import build_model
from aurep.search import policy_class
from aurep.surgery import prepare
from aurep.training.arithmetic import accelerator
from aurep.training.config import Config

_MIXED: dict[str, Any] = {"bf16": "bf16-mixed", "fp16": "16-mixed"}


def make_fabric(config: Config) -> Fabric:
    """Fabric on the device of a settled `config`; under torchrun, one process of a DDP group."""
    assert config.train.precision != "auto"
    device = accelerator(config)
    # As a plugin, since Fabric prints a line of its own where it is told a precision by name.
    mixed = _MIXED.get(config.train.precision)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    # Said here: Fabric takes a Slurm job's tasks for a group's processes, and asks for srun where there is one.
    environment = TorchElasticEnvironment() if processes > 1 else LightningEnvironment()
    fabric = Fabric(
        accelerator=device,
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        num_nodes=processes // int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        strategy="ddp" if processes > 1 else "auto",
        plugins=[environment, *([MixedPrecision(mixed, device)] if mixed else [])],
    )
    fabric.launch()
    if processes > 1:
        atexit.register(_leave_group)
    return fabric


def _leave_group() -> None:
    """A process that exits with its group's threads still running may be aborted."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def read_data(config: Config, fabric: Fabric) -> ImageData:
    """The data set of a configuration; whether it is streamed, the first rank decides for all."""
    data = config.data
    memory = int(data.memory_share * available_memory()) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    whole = data.stream == "auto" and data.resized_crop is not None  # its crops are of the images before any resizing
    return load_data(
        data.name,
        data.dir,
        val_fraction=data.val_fraction,
        input_size=config.model.input_size,
        interpolation=data.interpolation,
        crop_pct=data.crop_pct,
        mean=data.mean,
        std=data.std,
        stream="yes" if whole else data.stream,
        memory=fabric.broadcast(memory),
        cache=data.cache,
    )


def build_network(config: Config, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """The plain, all-ReLU network of a configuration, with fresh weights. `image_shape` is (C, H, W)."""
    model, (_, height, width) = config.model, image_shape
    return build_model(
        model.name,
        num_classes=num_classes,
        in_channels=image_shape[0],
        width=model.width,
        input_size=height if height == width else (height, width),
        stem_relu=model.stem_relu,
    )


def prepare_student(config: Config, network: nn.Module, example: Tensor) -> nn.Module:
    search, model = config.search, config.model
    degree = policy_class(search.method).default_degree if search.degree is None else search.degree
    return prepare(
        network,
        example,
        degree=degree,
        replace=model.replace,
        maxpool=model.maxpool,
        coefficients=search.coefficients,
    )
