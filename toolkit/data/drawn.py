"""Images drawn at random that a trained network takes for photographs, where there are none or none to be trusted.

They have the spectrum of natural ones, amplitudes that fall as 1 / frequency (Field, "Relations between the statistics
of natural images and the response properties of cortical cells", 1987), and differ in brightness and contrast. On white
noise a deep network of polynomials need not stay finite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MEAN, _DEVIATION = 0.45, 0.25  # of the pixels of photographs, in 0..1
_DISTURBANCE = 2.0**-18  # of each pixel, relative: 64 times the rounding of fp32
# Largest movement of an image's logits, over their spread, under that. Networks of twenty to thirty sites move by up to
# 1e-5. Of 3,200 images for a ResNet-18 of fitted polynomials, those that moved by less than this differed by at most
# 2e-5 between two ways of rounding, and by 1e-3 where all operands were disturbed.
_STEADY = 8 * _DISTURBANCE
_ROUNDING = 2.0**-20  # sixteen roundings of fp32 of a logit itself count for no movement


def drawn_fields(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[np.float64]:
    """Images of `shape` (n, C, H, W) of about mean 0 and unit variance."""
    rows, columns = (np.fft.fftfreq(size)[:, None] * size for size in shape[2:])
    amplitudes = 1 / np.maximum(np.hypot(rows, columns.T), 1)
    fields = np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) * amplitudes).real
    fields /= fields.std(axis=(1, 2, 3), keepdims=True) + 1e-12
    each = (len(fields), 1, 1, 1)
    scaled: NDArray[np.float64] = fields * rng.uniform(0.4, 1.2, each) + rng.normal(0, 0.5, each)
    return scaled


def drawn_pixels(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[np.float64]:
    """Images of `shape` (n, C, H, W), pixels in 0..1."""
    return np.clip(_MEAN + _DEVIATION * drawn_fields(rng, shape), 0, 1)


def steady(
    rng: np.random.Generator, images: NDArray[Any], run: Callable[[NDArray[Any]], NDArray[Any]]
) -> NDArray[np.bool_]:
    """(n,): for which `images` (n, ...) the logits (n, ...) that `run` makes of them are more than rounding.

    Far from the images it was trained on, a network of polynomials overflows, or nearly does: one of degree 2^k
    multiplies a relative error by up to 2^k where its leading term rules. An image counts where its logits are finite
    and hardly move, over their own spread, when the image does. It is moved twice, as one direction may happen to be
    one in which nothing moves.
    """
    wide = run(images).astype(np.float64).reshape(len(images), -1)
    size = np.abs(wide).max(axis=1, initial=0)
    fine: NDArray[np.bool_] = np.isfinite(size)
    if not wide.size or not np.issubdtype(images.dtype, np.floating):
        return fine
    with np.errstate(invalid="ignore", over="ignore"):
        spread = np.ptp(wide, axis=1) / 2 if wide.shape[1] > 1 else size
        allowed = _STEADY * spread + _ROUNDING * size
        for _ in range(2):
            moved = (images * (1 + rng.uniform(-_DISTURBANCE, _DISTURBANCE, images.shape))).astype(images.dtype)
            movement = np.abs(run(moved).astype(np.float64).reshape(wide.shape) - wide).max(axis=1)
            fine = np.logical_and(fine, movement <= allowed)
    return fine
