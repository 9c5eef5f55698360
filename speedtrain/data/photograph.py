"""One image file → uint8 RGB of the standard side: reading, bit depth, cropping, resizing."""

from pathlib import Path

import numpy as np
from PIL import Image

from speedtrain.data.source import data_error

SIDE = 32
"""Pixels of each side of every image, after resizing."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".pbm", ".tif", ".tiff")
# Pillow goes by the content, not by the suffix, and some of its other readers start programs (Ghostscript).
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "PPM", "TIFF")


def read_photographs(paths: list[Path]) -> tuple[np.ndarray, int]:
    """Reads image files.

    Returns:
        uint8 [N, 32, 32, 3], and how many of them had another size.

    Raises:
        UserError: a file cannot be read as an image.
    """
    images = np.empty((len(paths), SIDE, SIDE, 3), np.uint8)
    resized = 0
    for row, path in zip(images, paths, strict=True):
        try:
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                resized += image.size != (SIDE, SIDE)
                row[:] = fit(_eight_bit(image))
        # the formats' readers have as many ways to fail on a damaged file as there are formats
        except Exception as error:
            raise data_error(path, f"cannot be read as an image ({error}): mend or remove it") from error
    return images, resized


def _eight_bit(image: Image.Image) -> Image.Image:
    """The image in RGB, 8 bits a channel; transparency is dropped."""
    if image.mode.startswith(("I", "F")):  # Pillow's own conversion clips these at 255: white all over
        pixels = np.asarray(image)
        if image.mode == "F" or pixels.min() < 0 or pixels.max() > 0xFFFF:
            raise ValueError("32-bit pixels")
        image = Image.fromarray((pixels >> 8).astype(np.uint8))
    return image.convert("RGB")


def fit(image: Image.Image) -> np.ndarray:
    """The centred square of an image of mode L or RGB, resampled to uint8 [32, 32, 3]."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.crop(box).resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB"))
