"""Inputs drawn at random, beside a file's own samples: those were chosen by whoever wrote it."""

from __future__ import annotations

import secrets
import sys
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from aurep.data.drawn import drawn_fields, drawn_pixels
from aurep.metadata import InputClaim
from aurep.validators.graph.batch import fixed_batch, model_inputs

IMAGES = 8


def drawn(model: onnx.ModelProto, claim: InputClaim | None) -> NDArray[Any]:
    """(n, ...) inputs for `model`, n at least 2: images normalised as `claim` says, else of about unit variance."""
    declared = model_inputs(model)[0].type.tensor_type
    batch = fixed_batch(model) or IMAGES
    shape = (batch * -(-IMAGES // batch), *(dim.dim_value for dim in declared.shape.dim[1:]))
    if prod(shape) > sys.maxsize // 8:  # numpy has no address for so many, and would not call it memory
        raise MemoryError
    rng, dtype = np.random.default_rng(secrets.randbits(64)), helper.tensor_dtype_to_np_dtype(declared.elem_type)
    if not np.issubdtype(dtype, np.floating):
        return rng.integers(0, 128, shape).astype(dtype)
    return (_images(rng, shape, claim) if len(shape) == 4 else rng.normal(size=shape)).astype(dtype)


def _images(rng: np.random.Generator, shape: tuple[int, ...], claim: InputClaim | None) -> NDArray[np.float64]:
    if claim is None or claim.mean is None or claim.std is None:
        return drawn_fields(rng, shape)
    low, high = claim.range
    pixels, each = low + (high - low) * drawn_pixels(rng, shape), (-1, 1, 1)
    normalised: NDArray[np.float64] = (pixels - np.reshape(claim.mean, each)) / np.reshape(claim.std, each)
    return normalised
