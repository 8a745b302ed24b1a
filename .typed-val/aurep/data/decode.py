"""Decode image files into one uint8 array: look at every file's header first, then fill an array of the right size."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aurep.data.images import Pixels
from aurep.errors import AurepError

if TYPE_CHECKING:
    from PIL.Image import Image

_GREY_MODES = ("1", "L", "LA")
_DEEP_MODES = ("I", "F")  # and I;16 in its byte orders: more than eight bits per pixel


def all_grey(files: Sequence[Path]) -> bool:
    """Whether every file is an 8-bit greyscale image, so that one channel holds all there is."""
    return all(mode in _GREY_MODES for mode, _ in _headers(files))


def common_size(files: Sequence[Path]) -> tuple[int, int]:
    """(height, width) that all files have.

    Raises:
        AurepError: a file is no image, or two differ in size; it names them.
    """
    sizes = [size for _, size in _headers(files)]
    for file, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            raise AurepError(
                f"{file} has {size[0]}x{size[1]} pixels and {files[0]} {sizes[0][0]}x{sizes[0][1]}; expected one size: "
                "give input_size to resize them all."
            )
    width, height = sizes[0]
    return height, width


def decode_files(files: Sequence[Path], size: tuple[int, int], channels: int) -> Pixels:
    """Pixels uint8 (N, channels, height, width), each image resized to `size` (height, width) if it has another.

    Args:
        files: images that Pillow reads; transparency is dropped, palettes and greyscale become what `channels` says.
        size: height and width, pixels.
        channels: 1 for greyscale, 3 for RGB.

    Raises:
        AurepError: a file is no image, is damaged, or has more than eight bits per channel.
    """
    out = np.empty((len(files), channels, *size), np.uint8)

    def fill(i: int) -> None:
        out[i] = _decode(files[i], size, channels)

    with ThreadPoolExecutor() as pool:  # Pillow decodes outside Python's lock
        for _ in pool.map(fill, range(len(files))):
            pass
    return out


def to_pixels(image: Image, size: tuple[int, int], channels: int) -> Pixels:
    """One Pillow image as uint8 (channels, height, width)."""
    from PIL import Image as PillowImage

    converted = image.convert("L" if channels == 1 else "RGB")
    height, width = size
    if converted.size != (width, height):
        converted = converted.resize((width, height), PillowImage.Resampling.BILINEAR)
    pixels = np.asarray(converted)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _headers(files: Sequence[Path]) -> list[tuple[str, tuple[int, int]]]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_header, files))


def _header(file: Path) -> tuple[str, tuple[int, int]]:
    with _opened(file) as image:
        return image.mode, image.size


def _decode(file: Path, size: tuple[int, int], channels: int) -> Pixels:
    with _opened(file) as image:
        try:
            return to_pixels(image, size, channels)
        except (OSError, ValueError, SyntaxError) as error:
            raise AurepError(f"the image {file} is damaged ({error}); replace or remove it.") from error


def _opened(file: Path) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(file)
    except UnidentifiedImageError:
        raise AurepError(f"{file} is not an image; a class folder holds images only: remove it.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise AurepError(f"the image {file} cannot be opened ({error}); replace or remove it.") from error
    if image.mode in _DEEP_MODES or image.mode.startswith("I;"):
        mode = image.mode
        image.close()
        raise AurepError(f"{file} has more than eight bits per pixel (mode {mode}); convert it to an 8-bit image.")
    return image
