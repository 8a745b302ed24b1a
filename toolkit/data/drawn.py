"""Images drawn at random that a trained network takes for photographs, where there are none or none to be trusted.

They have the spectrum of natural ones, amplitudes that fall as 1 / frequency (Field, "Relations between the statistics
of natural images and the response properties of cortical cells", 1987), and differ in brightness and contrast. On white
noise a deep network of polynomials need not stay finite.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MEAN, _DEVIATION = 0.45, 0.25  # of the pixels of photographs, in 0..1


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
