"""One image file → uint8 RGB square: reading, orientation, transparency, bit depth, fitting, resizing."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from speedtrain.data.source import data_error
from speedtrain.errors import UserError
from speedtrain.machine import available_cores

SIDE = 32
"""Pixels a side of images that are no larger, and of images whose reader names no other side."""
SIDES = (32, 48, 64)
"""Sides that images get where nobody names one."""
GREY = (128, 128, 128)
"""What `pad` puts beside an image that is not square."""
MAX_PIXELS = 1 << 28
"""Of one image file: a decoded one takes 768 MiB."""
UNREADABLE_NAMED = 20

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".pbm", ".tif", ".tiff",
    ".avif", ".jp2", ".j2k",
)  # fmt: skip
# Pillow goes by the content, not by the suffix, and some of its other readers start programs (Ghostscript).
IMAGE_FORMATS = ("PNG", "JPEG", "MPO", "BMP", "WEBP", "GIF", "PPM", "TIFF", "AVIF", "JPEG2000")

Image.MAX_IMAGE_PIXELS = None  # of the whole process, since threads share it; the limit is `MAX_PIXELS`


@dataclass(frozen=True)
class Form:
    """The form into which images are brought.

    Attributes:
        side: pixels a side; None: the images' natural side.
        fit: what becomes of an image that is not square: crop (its centred square), pad (with grey), or squash.
    """

    side: int | None = SIDE
    fit: str = "crop"


def natural_side(short_sides: Iterable[int]) -> int:
    """The largest of `SIDES` that the images can fill: not above the median of their shorter sides."""
    median = np.median([*short_sides] or [SIDE])
    return max(side for side in SIDES if side <= max(SIDE, median))


def read_photographs(paths: Sequence[Path], form: Form) -> tuple[np.ndarray, list[str], bool]:
    """Reads image files, on all cores.

    Args:
        paths: the files.
        form: of the result.

    Returns:
        uint8 [N, side, side, 3]; what was done to them, a line each; and whether all were 32×32 in colour already.

    Raises:
        UserError: files that cannot be read as images; it names them all, or the first ones of many.
    """
    with ThreadPoolExecutor(available_cores()) as pool:  # Pillow lets other threads run while it decodes
        sizes = [size for size in pool.map(_try(_size), paths) if not isinstance(size, Exception)]
        side = form.side or natural_side(min(size) for size in sizes)
        images = np.empty((len(paths), side, side, 3), np.uint8)

        def fill(number: int) -> tuple[bool, bool]:
            images[number], turned, transparent = _read(paths[number], side, form.fit)
            return turned, transparent

        done = list(pool.map(_try(fill), range(len(paths))))
    errors = {path: result for path, result in zip(paths, done, strict=True) if isinstance(result, Exception)}
    if errors:
        raise _unreadable(errors)
    shapes = {"crop": "cut to their centred square", "pad": "padded to a square with grey", "squash": "squashed"}
    notes = []
    if oblong := sum(width != height for width, height in sizes):
        notes.append(f"{oblong} of {len(paths)} images are not square: {shapes[form.fit]}")
    if resized := sum(min(size) != side for size in sizes):
        notes.append(f"{resized} of {len(paths)} images were resized to {side}×{side}")
    if turned := sum(turned for turned, _ in done):
        notes.append(f"{turned} of {len(paths)} images were turned upright, as their EXIF orientation says")
    if transparent := sum(transparent for _, transparent in done):
        notes.append(f"{transparent} of {len(paths)} images have transparent parts: laid on white")
    colour = bool((images[..., 0] != images[..., 1]).any())
    return images, notes, colour and all(size == (SIDE, SIDE) for size in sizes)


def squared(image: Image.Image, side: int, fit: str = "crop") -> np.ndarray:
    """An image of mode L or RGB as a square, resampled to uint8 [side, side, 3]; `fit` as in `Form`."""
    if fit == "squash":
        return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC).convert("RGB"))
    if fit == "pad":
        longer = max(image.size)
        square = Image.new("RGB", (longer, longer), GREY)
        square.paste(image, ((longer - image.width) // 2, (longer - image.height) // 2))
        return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))
    shorter = min(image.size)
    left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
    box = (left, top, left + shorter, top + shorter)
    return np.asarray(image.crop(box).resize((side, side), Image.Resampling.BICUBIC).convert("RGB"))


@cache
def _formats() -> tuple[str, ...]:
    """Those of `IMAGE_FORMATS` that this Pillow reads."""
    Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image, of which only the header has been read."""
    with Image.open(path, formats=_formats()) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}×{image.height} pixels are too many")
        yield image


def _size(path: Path) -> tuple[int, int]:
    """Width and height."""
    with _opened(path) as image:
        return image.size


def _read(path: Path, side: int, fit: str) -> tuple[np.ndarray, bool, bool]:
    """The image as a square, whether it was turned, and whether it was transparent."""
    with _opened(path) as image:
        # a large JPEG is decoded at a fraction of its size, at least four times the size wanted: a level apart at most,
        # on average
        scale = 4 * side / min(image.size)
        if scale < 1:
            image.draft(None, (round(image.width * scale), round(image.height * scale)))
        turned = image.getexif().get(0x0112, 1) != 1
        rgb, transparent = _eight_bit(image)
        return squared(ImageOps.exif_transpose(rgb) if turned else rgb, side, fit), turned, transparent


def _eight_bit(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image in RGB, 8 bits a channel, and whether parts of it were transparent: they lie on white."""
    if image.mode.startswith(("I", "F")):  # Pillow's own conversion clips these at 255: white all over
        pixels = np.asarray(image)
        if image.mode == "F" or pixels.min() < 0 or pixels.max() > 0xFFFF:
            raise ValueError("32-bit pixels")
        return Image.fromarray((pixels >> 8).astype(np.uint8)).convert("RGB"), False
    if not image.has_transparency_data:
        return image.convert("RGB"), False
    layer = image.convert("RGBA")
    (lowest, _) = layer.getchannel("A").getextrema()
    if lowest == 255:
        return layer.convert("RGB"), False
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(layer)
    return white.convert("RGB"), True


def _try(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`read`, which returns an exception in place of raising it."""

    def attempt(item: Any) -> Any:
        try:
            return read(item)
        # the formats' readers have as many ways to fail on a damaged file as there are formats
        except Exception as error:
            return error

    return attempt


def _unreadable(errors: Mapping[Path, Exception]) -> UserError:
    """One error for all files that cannot be read."""
    (first, error), *more = errors.items()
    if not more:
        return data_error(first, f"cannot be read as an image ({error}): mend or remove it")
    named = ", ".join(str(path) for path, _ in more[: UNREADABLE_NAMED - 1])
    unnamed = len(errors) - UNREADABLE_NAMED
    rest = f" and {unnamed} more" if unnamed > 0 else ""
    return data_error(first, f"cannot be read as an image ({error}), nor can {named}{rest}: mend or remove them")
