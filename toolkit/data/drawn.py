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
DRAWS = 4  # times as many are drawn at most as are wanted `steady`
# How far numbers are disturbed to see what depends on rounding: 64 times the rounding of fp32 (2^-24, relative), so
# that a step made of it drowns, yet a quarter of what truncation to 16 fraction bits does to values of 1.
DISTURBANCE = 2.0**-18
LOGIT_ROUNDING = 2.0**-20  # sixteen roundings of fp32 of a logit itself
# Largest movement of an image's logits, over their spread, when its pixels are disturbed. Nearly all images move those
# of networks of 19 and 31 sites by less than 1e-5. Of 3,200 images for a ResNet-18 of fitted polynomials, those that
# moved by less than this differed by at most 2e-5 between two ways of rounding, and by 2e-3 where all operands were
# disturbed.
_STEADY = 8 * DISTURBANCE


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


def disturbed(rng: np.random.Generator, images: NDArray[Any]) -> NDArray[Any]:
    """`images`, each number moved by up to `DISTURBANCE` of itself."""
    moved: NDArray[Any] = (images * (1 + rng.uniform(-DISTURBANCE, DISTURBANCE, images.shape))).astype(images.dtype)
    return moved


def steady(
    rng: np.random.Generator, images: NDArray[Any], logits: NDArray[Any], run: Callable[[NDArray[Any]], NDArray[Any]]
) -> NDArray[np.bool_]:
    """(n,): for which `images` (n, ...) the `logits` (n, ...) that `run` makes of them are more than rounding.

    Far from the images it was trained on, a network of polynomials overflows, or nearly does: one of degree 2^k
    multiplies a relative error by up to 2^k where its leading term rules. An image counts where its logits are finite
    and hardly move, over their own spread, when the image is `disturbed`: twice, as one direction may happen to be one
    in which nothing moves.
    """
    wide = logits.astype(np.float64).reshape(len(images), -1)
    size = np.abs(wide).max(axis=1, initial=0)
    fine: NDArray[np.bool_] = np.isfinite(size)
    if not wide.size or not np.issubdtype(images.dtype, np.floating):
        return fine
    with np.errstate(invalid="ignore", over="ignore"):
        spread = np.ptp(wide, axis=1) / 2 if wide.shape[1] > 1 else size
        allowed = _STEADY * spread + LOGIT_ROUNDING * size
        for _ in range(2):
            moved = run(disturbed(rng, images)).astype(np.float64).reshape(wide.shape)
            fine = np.logical_and(fine, np.abs(moved - wide).max(axis=1) <= allowed)
    return fine
