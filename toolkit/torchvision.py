"""The optional package torchvision, imported so that it also loads beside a CPU build of torch."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import torch


def import_torchvision(module: str = "torchvision") -> ModuleType:
    """`module` of torchvision. Raises ImportError where it is not installed."""
    try:
        import_module("torchvision")
    except RuntimeError:
        # Beside a CPU build of torch its compiled operators do not load, and its import then fails on the missing
        # schemas. Neither a classifier nor a transform calls them, so declaring them is enough.
        torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torch.library.define("torchvision::qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return import_module(module)
