"""Open encoded images, and find the shape that a set of them has in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from aurep.data.resize import Resize
from aurep.errors import AurepError

if TYPE_CHECKING:
    from PIL.Image import Image

GREY_MODES = ("1", "L", "LA")
_DEEP_MODES = ("I", "F")  # and I;16 in its byte orders: more than eight bits per pixel
_AT_ONCE = 1024  # headers read ahead

Header = tuple[str, tuple[int, int]]  # Pillow's mode, (width, height)


class Store(Protocol):
    """Where encoded images are, by their number."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """What a message calls the image."""
        ...

    def opened(self, number: int) -> Image:
        """The image, its header read, its pixels not yet. Raises AurepError."""
        ...

    def identity(self, number: int) -> str:
        """Changes with the image's content."""
        ...


def survey(stores: Sequence[Store], resize: Resize) -> tuple[Resize, int]:
    """How all images become one shape: `resize` with a size, and channels, 1 if all are greyscale, else 3.

    Without a size all images must have one. With it, headers are read only until one is in colour.

    Raises:
        AurepError: one is no 8-bit image, or two differ in size; it names them.
    """
    headers = _headers(stores)
    if resize.size is not None:
        return resize, 1 if all(mode in GREY_MODES for _, (mode, _) in headers) else 3
    channels, first, size = 1, "", (0, 0)
    for name, (mode, found) in headers:
        if not first:
            first, size = name, found
        if found != size:
            raise AurepError(
                f"{name} has {found[0]}x{found[1]} pixels and {first} {size[0]}x{size[1]}; expected one size: "
                "give input_size to resize them all."
            )
        channels = channels if mode in GREY_MODES else 3
    return resize.to(size[::-1]), channels


def converted(store: Store, number: int, channels: int) -> Image:
    """Image `number` at its own size, greyscale or RGB. Raises AurepError where it is damaged."""
    with store.opened(number) as image:  # closes the file, not what was decoded from it
        try:
            image.load()
            mode = "L" if channels == 1 else "RGB"
            return image if image.mode == mode else image.convert(mode)  # which copies also what it leaves as it is
        except (OSError, ValueError, SyntaxError) as error:
            raise AurepError(f"the image {store.name(number)} is damaged ({error}); replace or remove it.") from error


def open_image(source: Path | bytes, name: str) -> Image:
    """Raises AurepError, which calls it `name`: no image, or one of more than eight bits per channel."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(source if isinstance(source, Path) else BytesIO(source))
    except UnidentifiedImageError:
        raise AurepError(f"{name} is not an image, and a data set holds images only; remove it.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise AurepError(f"the image {name} cannot be opened ({error}); replace or remove it.") from error
    if image.mode in _DEEP_MODES or image.mode.startswith("I;"):
        mode = image.mode
        image.close()
        raise AurepError(f"{name} has more than eight bits per pixel (mode {mode}); convert it to an 8-bit image.")
    return image


def _headers(stores: Sequence[Store]) -> Iterator[tuple[str, Header]]:
    numbered = chain.from_iterable(((store, i) for i in range(len(store))) for store in stores)
    with ThreadPoolExecutor() as pool:
        while some := list(islice(numbered, _AT_ONCE)):
            yield from pool.map(_header, *zip(*some, strict=True))


def _header(store: Store, number: int) -> tuple[str, Header]:
    with store.opened(number) as image:
        return store.name(number), (image.mode, image.size)
