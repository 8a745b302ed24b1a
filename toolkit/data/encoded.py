"""Images that stay encoded where they are: each is decoded when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aurep.data.decode import Store, converted, open_image
from aurep.data.images import Pixels
from aurep.data.resize import Resize

if TYPE_CHECKING:
    from PIL.Image import Image


class Files:
    """Image files under one folder.

    Their names are packed into two arrays. As a million Python strings they would take several times the memory, in
    every process that decodes: a reference count that is touched copies its page.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._folder = os.fsencode(folder)
        self._text = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, number: int) -> str:
        return os.fsdecode(os.path.join(self._folder, self._name(number)))  # of bytes

    def opened(self, number: int) -> Image:
        name = self.name(number)
        return open_image(Path(name), name)

    def identity(self, number: int) -> str:
        facts = Path(self.name(number)).stat()
        return f"{self._name(number)!r} {facts.st_size} {facts.st_mtime_ns}"

    def _name(self, number: int) -> bytes:
        start = self._ends[number - 1] if number else 0
        return self._text[start : self._ends[number]].tobytes()


def pixels_of(image: Image) -> Pixels:
    """uint8 (C, H, W)."""
    pixels: NDArray[Any] = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Reads like a uint8 array (N, C, H, W), decoding what is read.

    Args:
        store: where the images are.
        order: which of them these are, in order.
        resize: how each comes to its size, which it names.
        channels: 1 or 3.
    """

    store: Store
    order: NDArray[np.int64]
    resize: Resize
    channels: int

    @classmethod
    def all_of(cls, store: Store, resize: Resize, channels: int) -> EncodedImages:
        return cls(store, np.arange(len(store)), resize, channels)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        assert self.resize.size is not None
        return len(self.order), self.channels, *self.resize.size

    def __len__(self) -> int:
        return len(self.order)

    def subset(self, chosen: slice | NDArray[np.int64]) -> EncodedImages:
        """The chosen ones, still encoded."""
        return replace(self, order=self.order[chosen])

    def original(self, position: int) -> Image:
        """One image at its own size, greyscale or RGB."""
        return converted(self.store, int(self.order[position]), self.channels)

    def decode(self, position: int) -> Pixels:
        """One image, uint8 (C, H, W).

        Raises:
            AurepError: it is no image, is damaged, or has more than eight bits per channel.
        """
        return pixels_of(self.resize(self.original(position)))

    def __getitem__(self, chosen: slice | NDArray[np.int64]) -> Pixels:
        """Pixels of the chosen ones. Raises AurepError as `decode` does."""
        positions = np.arange(len(self))[chosen]
        out = np.empty((len(positions), *self.shape[1:]), np.uint8)

        def fill(i: int) -> None:
            out[i] = self.decode(int(positions[i]))

        with ThreadPoolExecutor() as pool:  # Pillow decodes outside Python's lock
            for _ in pool.map(fill, range(len(positions))):
                pass
        return out
