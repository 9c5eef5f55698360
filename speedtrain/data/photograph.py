"""One image file → uint8 RGB of one side: formats, EXIF orientation, transparency, bit depth, shrinking, fitting.

Large images cost little: a JPEG is decoded at a reduced scale, and the others are flattened and reduced strip by strip.
Both leave at least GAP times the pixels that the result needs, so the result is that of a plain decode within a level
or two. Small images are decoded, cropped and resized as they are.
"""

import math
import stat
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageStat

Fit = Literal["crop", "pad", "squash"]
"""What becomes of an image that is not square: its centred square, the whole on its mean colour, or the whole
distorted."""
FITTED: dict[Fit, str] = {
    "crop": "cut to their centred square and resized to",
    "pad": "resized and filled up with their mean colour to",
    "squash": "squashed to",
}
"""What was done to images, in words that a side follows."""
FITS = tuple(FITTED)

SIDE = 32
"""Pixels of each side of every image, after resizing, where no other side is asked for."""
SIDES = (32, 48, 64)
"""Sides that images get where nobody names one: the largest that they can fill."""

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".pbm", ".tif", ".tiff"),
    *(".avif", ".jp2", ".j2k", ".heic", ".heif"),
)
# Pillow goes by the content, not by the suffix, and some of its other readers start programs (Ghostscript).
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "PPM", "TIFF", "AVIF", "JPEG2000", "HEIF")

DEPTHS = (8, 10, 12, 14, 16)
"""Bits a pixel of cameras and scanners. Integers wider than uint8 hold one of these."""
WHITE = 2**16 - 1
"""In a grey image of more than 8 bits, where nothing else is said."""

LARGEST = 2**28
"""Pixels of the largest image that is read: 1 GiB while it is decoded."""
LARGE = 2**22
"""Pixels from which an image is reduced in strips of so many, and decoded while no other large one is."""
GAP = 4
"""A reduced image keeps at least so many times the pixels of the result's side."""

_ONE_LARGE = threading.Lock()
_SIGNATURES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_HEIC = _BRANDS[2:]
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what turns the image upright."""


def is_image_file(path: Path) -> bool:
    """Whether a file is taken for an image: by its suffix, or else by its first bytes."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return False
    riff = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    # a BMP says BM and has four reserved zeros: the two letters alone begin many a text
    bitmap = start[:2] == b"BM" and start[6:10] == b"\0\0\0\0"
    return start.startswith(_SIGNATURES) or riff or bitmap or (start[4:8] == b"ftyp" and start[8:12] in _BRANDS)


def natural_side(sizes: Sequence[tuple[int, int]]) -> int:
    """The largest of SIDES that the median image reaches with its short side.

    Args:
        sizes: (width, height) of each image.
    """
    median = float(np.median([min(size) for size in sizes]))
    return max((side for side in SIDES if side <= median), default=SIDE)


@dataclass(frozen=True)
class Facts:
    """What must be known of image files before they are read.

    Attributes:
        size: width and height, by the header: not turned upright, since Pillow decodes the whole of a PNG to look for
            its orientation.
        highest: the largest value of a grey image of more than 8 bits; 0 for all others.
        upper_bits: whether it is in colour with 16 bits a channel, of which Pillow reads the upper 8.
    """

    size: tuple[int, int]
    highest: int = 0
    upper_bits: bool = False


def facts_of(path: Path) -> Facts:
    """What must be known of an image file. Call it inside `large_images_allowed`.

    Raises:
        Exception: as for `read_photograph`.
    """
    with _opened(path) as image:
        _check_size(image)
        tiles = getattr(image, "tile", None)
        upper_bits = image.mode in ("RGB", "RGBA") and ";16" in str(tiles and tiles[0][3])
        return Facts(image.size, highest_value(image), upper_bits)


def highest_value(image: Image.Image) -> int:
    """The largest value of a grey image of more than 8 bits, or where the file says that it has 12, at least theirs.

    0 for all others, and for those of 32 bits, which are refused when they are read.
    """
    if not image.mode.startswith("I") or _bits(image) > 16:
        return 0
    with _ONE_LARGE if image.width * image.height >= LARGE else nullcontext():
        highest = int(np.asarray(image).max())
    return 0 if highest > WHITE else max(highest, 2**12 - 1 if _bits(image) == 12 else 0)


def white_of(highest: int) -> int | None:
    """The largest integer of the smallest of DEPTHS that holds this one; None if none does."""
    return next((2**depth - 1 for depth in DEPTHS if highest < 2**depth), None)


def read_photograph(
    path: Path, side: int = SIDE, how: Fit = "crop", white: int = WHITE
) -> tuple[np.ndarray, tuple[int, int]]:
    """Reads an image file; of an animation, the first frame.

    Call it inside `large_images_allowed`.

    Args:
        path: of the file.
        side: of the result, in pixels. Default: 32.
        how: what becomes of an image that is not square. Default: its centred square.
        white: what stands for it in grey images of more than 8 bits. Default: 65535.

    Returns:
        uint8 [side, side, 3], and the width and height of the image in the file.

    Raises:
        Exception: it cannot be read. The formats' readers have as many ways to fail on a damaged file as there are
            formats.
    """
    with _opened(path) as image:
        _check_size(image)
        size, factor = image.size, 1
        if image.format in ("JPEG", "MPO"):
            scale = min(size) / (GAP * side)
            if drafted := image.draft(None, (int(size[0] / scale), int(size[1] / scale))):
                factor = round(size[0] / drafted[1][2])
        if image.width * image.height < LARGE:
            pixels = _flat(image, white)
        else:
            with _ONE_LARGE:
                more = max(1, min(image.size) // (GAP * side))
                pixels, factor = _reduced(image, more, white), factor * more
        turn = _TURNS.get(_orientation(image))
    if factor > 1:  # turned at the end: what a whole factor leaves of the last row and column is at their end
        fitted = _fit_reduced(pixels, size, factor, side, how)
        return np.asarray(fitted if turn is None else fitted.transpose(turn)), size
    return fit(pixels if turn is None else pixels.transpose(turn), side, how), size


def read_image(
    image: Image.Image, side: int = SIDE, how: Fit = "crop", white: int = WHITE
) -> tuple[np.ndarray, tuple[int, int]]:
    """An image in memory, as `read_photograph` reads a file; the image itself is not changed.

    Raises:
        Exception: it is too large; or as for `read_photograph`, where Pillow has not read the file yet.
    """
    _check_size(image)
    image = image.copy()
    turn = _TURNS.get(_orientation(image))
    pixels = _flat(image, white)
    return fit(pixels if turn is None else pixels.transpose(turn), side, how), image.size


class _Limit:
    """Pillow's limit on the pixels of an image, and how many use the reader without it."""

    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0
        self.of_pillow: int | None = None


_LIMIT = _Limit()


@contextmanager
def large_images_allowed() -> Iterator[None]:
    """Without Pillow's warning of attacks by large images: `read_photograph` has its own limit."""
    with _LIMIT.lock:  # of all threads: the first one takes Pillow's limit away, the last one gives it back
        if not _LIMIT.users:
            _LIMIT.of_pillow, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _LIMIT.users += 1
    try:
        yield
    finally:
        with _LIMIT.lock:
            _LIMIT.users -= 1
            if not _LIMIT.users:
                Image.MAX_IMAGE_PIXELS = _LIMIT.of_pillow


def fit(image: Image.Image, side: int = SIDE, how: Fit = "crop") -> np.ndarray:
    """An image of mode L or RGB resampled (bicubic, antialiased) to uint8 [side, side, 3]."""
    if how == "crop":
        image = image.crop(_centred_square(image.size))
    return np.asarray(_resampled(image, (0, 0, *image.size), side, how))


def _fit_reduced(image: Image.Image, size: tuple[int, int], factor: int, side: int, how: Fit) -> Image.Image:
    """As `fit`, of an image of `size` that was reduced by a whole factor: its box ends between pixels."""
    box = _centred_square(size) if how == "crop" else (0, 0, *size)
    left, top, right, bottom = (edge / factor for edge in box)
    x, y = int(left), int(top)
    image = image.crop((x, y, math.ceil(right), math.ceil(bottom)))  # what lies outside has no part in the edges
    return _resampled(image, (left - x, top - y, right - x, bottom - y), side, how)


def _centred_square(size: tuple[int, int]) -> tuple[int, int, int, int]:
    short = min(size)
    left, top = (size[0] - short) // 2, (size[1] - short) // 2
    return left, top, left + short, top + short


def _resampled(image: Image.Image, box: tuple[float, float, float, float], side: int, how: Fit) -> Image.Image:
    """The box of an image in RGB, side × side."""
    width, height = box[2] - box[0], box[3] - box[1]
    if how != "pad" or width == height:
        return image.resize((side, side), Image.Resampling.BICUBIC, box).convert("RGB")
    scale = side / max(width, height)
    small = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BICUBIC, box)
    small = small.convert("RGB")
    red, green, blue = (round(mean) for mean in ImageStat.Stat(small).mean)
    square = Image.new("RGB", (side, side), (red, green, blue))
    square.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    return square


@cache
def _formats() -> tuple[str, ...]:
    """Those of IMAGE_FORMATS that this installation reads."""
    Image.init()
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)


def _opened(path: Path) -> Image.Image:
    """The image with its header read."""
    try:
        return Image.open(path, formats=_formats())
    except Image.UnidentifiedImageError:
        with path.open("rb") as file:
            start = file.read(12)
        if start[4:8] == b"ftyp" and start[8:] in _HEIC and "HEIF" not in _formats():
            raise ValueError("HEIC needs a plug-in: pip install pillow-heif") from None
        raise


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > LARGEST:
        raise ValueError(f"{image.width}×{image.height} pixels, more than {LARGEST / 1e6:.0f} million")


def _orientation(image: Image.Image) -> int:
    """EXIF's, 1 to 8; 1 where the image has none, or damaged EXIF data. Of a PNG it decodes the pixels."""
    with suppress(struct.error, KeyError, SyntaxError, TypeError, ValueError, EOFError, OSError):
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return value if value in _TURNS else 1
    return 1


def _bits(image: Image.Image) -> int:
    """Of a value, as a TIFF says; 16 where nothing does."""
    bits: int = getattr(image, "tag_v2", {}).get(258, (16,))[0]
    return bits


def _reduced(image: Image.Image, factor: int, white: int) -> Image.Image:
    """The image in RGB, each side shortened by a whole factor; never the whole of it in another mode."""
    _scale_transparency(image)
    image.load()
    small = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    rows = max(1, LARGE // (image.width * factor))
    for top in range(0, small.height, rows):
        strip = image.crop((0, top * factor, image.width, min(image.height, (top + rows) * factor)))
        small.paste(_in_rgb(strip, image, white).reduce(factor), (0, top))
    return small


def _flat(image: Image.Image, white: int) -> Image.Image:
    """The image in RGB."""
    _scale_transparency(image)
    image.load()
    return _in_rgb(image, image, white)


def _scale_transparency(image: Image.Image) -> None:
    """Brings a PNG's transparent colour, given in the file's bit depth, to the bit depth of the pixels."""
    colour = image.info.get("transparency")
    tiles = getattr(image, "tile", None)
    depth = tiles and tiles[0][3]
    if isinstance(colour, tuple) and depth == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    elif isinstance(colour, int) and depth in ("1", "L;2", "L;4"):
        image.info["transparency"] = colour * {"1": 255, "L;2": 85, "L;4": 17}[str(depth)]


def _in_rgb(pixels: Image.Image, file: Image.Image, white: int) -> Image.Image:
    """Pixels of a file in RGB, 8 bits a channel, on white where they are transparent."""
    colour = pixels.info.get("transparency")
    if pixels.mode.startswith(("I", "F")):  # Pillow's own conversion clips these at 255: white all over
        values = np.asarray(pixels)
        highest = int(values.max())
        if pixels.mode == "F" or _bits(file) > 16 or values.min() < 0 or highest > WHITE:
            raise ValueError("32-bit pixels")
        if highest > white:
            raise ValueError(f"values up to {highest}, and {white} is white, by pixel_max or by the training images")
        grey = np.rint(values * (255 / white)).astype(np.uint8)
        if isinstance(colour, int):
            grey[values == colour] = 255
        return Image.fromarray(grey).convert("RGB")
    if pixels.mode == "CMYK" and file.format in ("JPEG", "MPO") and "adobe" not in file.info:
        pixels = ImageChops.invert(pixels)  # Pillow takes every CMYK JPEG for one of Adobe's, which are negatives
    if not pixels.has_transparency_data:
        return pixels.convert("RGB")
    if pixels.mode == "1":
        pixels = pixels.convert("L")
        pixels.info["transparency"] = colour
    layer = pixels.convert("RGBA")
    paper = Image.new("RGB", layer.size, "white")
    paper.paste(layer, mask=layer.getchannel("A"))
    return paper
