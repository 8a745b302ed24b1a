"""Bring images that are already in memory to the network's input size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aurep.data.images import Pixels, RawData


def resize_images(x: Pixels, size: int) -> Pixels:
    """(N, C, H, W) -> (N, C, size, size), Pillow's bilinear filter, uint8; the aspect ratio is not kept."""
    if x.shape[2:] == (size, size):
        return x
    from PIL import Image

    out = np.empty((*x.shape[:2], size, size), np.uint8)
    for i, image in enumerate(x):
        for c, plane in enumerate(image):
            out[i, c] = np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR))
    return out


def resize_data(raw: RawData, size: int) -> RawData:
    """Every part of `raw`, resized to (size, size)."""
    return replace(
        raw,
        x_train=resize_images(raw.x_train, size),
        x_test=resize_images(raw.x_test, size),
        x_val=None if raw.x_val is None else resize_images(raw.x_val, size),
    )
