"""Inputs drawn at random, beside a file's own samples: those were chosen by whoever wrote it.

Images have the spectrum of natural ones, amplitudes that fall as 1 / frequency (Field, "Relations between the
statistics of natural images and the response properties of cortical cells", 1987), and differ in brightness and
contrast, so that a trained network sees about what it was trained on: on white noise a deep one of polynomials need not
stay finite.
"""

from __future__ import annotations

import secrets
import sys
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from aurep.metadata import InputClaim
from aurep.validators.graph.batch import fixed_batch, model_inputs

IMAGES = 8
_MEAN, _DEVIATION = 0.45, 0.25  # of the pixels of photographs, in 0..1


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
    rows, columns = (np.fft.fftfreq(size)[:, None] * size for size in shape[2:])
    amplitudes = 1 / np.maximum(np.hypot(rows, columns.T), 1)
    fields = np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) * amplitudes).real
    fields /= fields.std(axis=(1, 2, 3), keepdims=True) + 1e-12
    each = (len(fields), 1, 1, 1)
    fields = fields * rng.uniform(0.4, 1.2, each) + rng.normal(0, 0.5, each)
    if claim is None or claim.mean is None or claim.std is None:
        return fields
    low, high = claim.range
    pixels = low + (high - low) * np.clip(_MEAN + _DEVIATION * fields, 0, 1)
    columns_of = (-1, 1, 1)
    normalised: NDArray[np.float64] = (pixels - np.reshape(claim.mean, columns_of)) / np.reshape(claim.std, columns_of)
    return normalised
