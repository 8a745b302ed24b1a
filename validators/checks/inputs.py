"""Inputs drawn at random, beside a file's own samples: those were chosen by whoever wrote it."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from aurep.data.drawn import DRAWS, drawn_fields, drawn_pixels, steady
from aurep.metadata import InputClaim
from aurep.validators.graph.batch import fixed_batch, model_inputs
from aurep.validators.session import CannotRunError, Session
from aurep.validators.stages import stage

IMAGES = 8
FAR = 1.0  # see `answerable`
Eager = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # the model that a graph was made of
Beyond = Callable[[NDArray[np.float32]], float]  # `ranges.beyond` of an image (1, ...)


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


def asked(
    model: onnx.ModelProto, claim: InputClaim | None, session: Session, eager: Eager | None, beyond: list[Beyond]
) -> tuple[NDArray[Any], int]:
    """Drawn inputs that are `answerable`, at least `IMAGES`, and how many were drawn for them.

    Where `DRAWS` times as many are not enough, or the graph does not run, the last ones drawn, as they are: the file
    shows too little of itself, which the checks will tell.
    """
    made: list[NDArray[Any]] = []
    tried = 0
    for _ in range(DRAWS):
        with stage("while drawing images as the file claims them"):
            images = drawn(model, claim)
        try:
            fine = answerable(images, session, eager, beyond)
        except CannotRunError:
            break
        made.append(images[fine])
        tried += len(images)
        if sum(map(len, made)) >= IMAGES:
            return np.concatenate(made), tried
    return images, len(images)


def answerable(images: NDArray[Any], session: Session, eager: Eager | None, beyond: list[Beyond]) -> NDArray[np.bool_]:
    """(n,): which of `images` (n, ...) are such that the network's answers say something of the file.

    An image counts where the logits are `steady`: in the graph, or in the model it was made of where that is given, so
    that a graph which alone overflows is found. And where no site's input leaves what is certified of it by more than
    `FAR` of that range's width, by one of the measurements `beyond` at least: as far out as that, logits of a network
    of 69 sites begin to differ between two ways of rounding. Raises CannotRunError.
    """
    runs = [session.run, *([] if eager is None else [eager])]
    logits = [run(images) for run in runs]
    if any(len(found) != len(images) for found in logits):
        return np.ones(len(images), bool)
    rng = np.random.default_rng(secrets.randbits(64))
    fine = np.any([steady(rng, images, found, run) for found, run in zip(logits, runs, strict=True)], axis=0)
    far = [bool(beyond) and all(measure(image) > FAR for measure in beyond) for image in images[:, None]]
    return np.logical_and(fine, np.logical_not(far))


def _images(rng: np.random.Generator, shape: tuple[int, ...], claim: InputClaim | None) -> NDArray[np.float64]:
    if claim is None or claim.mean is None or claim.std is None:
        return drawn_fields(rng, shape)
    low, high = claim.range
    pixels, each = low + (high - low) * drawn_pixels(rng, shape), (-1, 1, 1)
    normalised: NDArray[np.float64] = (pixels - np.reshape(claim.mean, each)) / np.reshape(claim.std, each)
    return normalised
