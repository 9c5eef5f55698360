"""Images without labels, in whatever form a person has them → parts of bounded size.

A path, several paths, a folder, an `.npz`, PIL images, arrays, a column of a data frame, a generator: nothing is held
but one part, so that any number of images takes the same memory.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from speedtrain.config import IN_MEMORY
from speedtrain.data.arrays import standard_images
from speedtrain.data.folder import TO_PREDICT, files_to_predict, is_folder
from speedtrain.data.image_files import Reading, read_photographs
from speedtrain.data.npz import NO_IMAGES, is_npz, read_npz
from speedtrain.data.photograph import WHITE, is_image_file, large_images_allowed, read_image
from speedtrain.data.python_datasets import as_image, refuse_undecoded
from speedtrain.data.source import NOT_FROM_THE_WEB, data_error, is_address, is_gap
from speedtrain.errors import UserError
from speedtrain.machine import available_cores

PART = 1024
"""Images of a part."""
FEW = 4
"""PIL images and arrays, for each core, that are held before they are brought to their side."""


@dataclass(frozen=True)
class Part:
    """Some of the images.

    Attributes:
        images: uint8 [n, side, side, 3], those that could be read.
        readable: bool [m], of all: whether it could be read.
        names: of all; None for an image that comes from no file, and for a gap.
        problems: place among all of this part → why it cannot be read, in order.
    """

    images: np.ndarray
    readable: np.ndarray
    names: Sequence[str | None]
    problems: dict[int, str]


@dataclass(frozen=True)
class ImageStream:
    """Images, in their order.

    Attributes:
        parts: what to iterate over, once.
        total: how many images there are; None where nobody knows yet.
        single: whether one image was given, not several.
    """

    parts: Iterator[Part]
    total: int | None
    single: bool = False


def open_images(images: Any, reading: Reading) -> ImageStream:
    """Images in whatever form they come.

    Args:
        images: the path of an image file, of a folder (all images in it and below it) or of an `.npz`; a PIL image;
            an array: uint8, wider integers or floats, [H, W] or [H, W, C] for one image and [N, H, W] or [N, H, W, C]
            for several, with 1 or 3 channels C, where [a, b, 1] and [a, b, 3] are one image; or anything that gives
            paths of files, PIL images and uint8 arrays, one after another.
            [1, H, W] and [3, H, W] are refused, since they may be meant either way, and so are [H, W, 2] and [H, W, 4].
        reading: side, fit, and white in wide integers.

    Raises:
        UserError: there are no images, or it is none of these. Also while the parts are read, for an item that is no
            image. A file that cannot be read is one of the part's problems, and so is a gap: None, NaN, NA or no text.
    """
    if isinstance(images, str | Path):
        return _named(Path(images), reading)
    if isinstance(images, Image.Image):
        return ImageStream(_parts([images], reading), 1, single=True)
    refuse_undecoded(images, "this", IN_MEMORY)
    try:
        array = np.asarray(images) if hasattr(images, "__array__") else None
    except (TypeError, RuntimeError) as error:  # tensors on another device, or with gradients
        raise data_error(IN_MEMORY, f"this is not an array ({error}): give images.detach().cpu()") from error
    if array is not None and array.ndim > 1 and hasattr(images, "columns"):
        raise data_error(IN_MEMORY, "a whole table given: give its column of paths, as in table['image']")
    if array is not None and array.ndim:
        one_by_one = "OUT" if array.ndim > 1 else "OUTfM"  # a column of gaps alone is one of floats, or of dates
        if array.dtype.kind not in one_by_one:
            return _array(array, IN_MEMORY, reading)
    if not isinstance(images, Iterable) or (array is not None and not array.ndim):
        what = "a path, a PIL image, an array, or several of them"
        raise UserError(f"images is a {type(images).__name__}: give {what}")
    total = len(images) if isinstance(images, Sized) else None
    return ImageStream(_parts(images, reading), total)


def _named(path: Path, reading: Reading) -> ImageStream:
    """The image, or the images, at a path."""
    if is_folder(path, TO_PREDICT):
        paths = files_to_predict(path)
        return ImageStream(_parts(paths, reading, path), len(paths))
    if is_image_file(path):
        return ImageStream(_parts([path], reading, path.parent), 1, single=True)
    if not is_npz(path):
        raise data_error(path, f"{NO_IMAGES}: {TO_PREDICT}")
    return _array(read_npz(path, required=("images",))["images"], str(path), reading, several=True)


def _array(images: np.ndarray, where: str, reading: Reading, several: bool = False) -> ImageStream:
    """An array of one image or several."""
    what = f"an array of shape {images.shape}"
    single = not several and (images.ndim == 2 or (images.ndim == 3 and images.shape[2] in (1, 3)))
    if not several and images.ndim == 3 and images.shape[2] in (2, 4):
        hint = "give PIL's Image.fromarray(image), which is laid on white, or lay it on white and convert('RGB')"
        forms = "taken are [H, W], [H, W, 1] and [H, W, 3], and [N, H, W, 1] for grey ones"
        raise data_error(
            where, f"{what} may be one image with transparency, or {len(images)} grey ones: {hint}; {forms}"
        )
    if not single and images.ndim == 3 and images.shape[0] in (1, 3) and not several:
        hint = "give [H, W, C] for one image (images.transpose(1, 2, 0)), or [N, H, W, 1] for grey ones"
        raise data_error(where, f"{what} may be one image with its channels first, or {len(images)} grey ones: {hint}")
    if single:
        images = images[None]
    if not len(images):
        return ImageStream(iter(()), 0)
    if images.dtype != np.uint8:  # what is white shows in the whole only
        images = standard_images(images, where, reading).images

    def parts() -> Iterator[Part]:
        for first in range(0, len(images), PART):
            some = standard_images(images[first : first + PART], where, reading).images
            yield Part(some, np.ones(len(some), bool), [None] * len(some), {})

    return ImageStream(parts(), len(images), single)


def _parts(items: Iterable[Any], reading: Reading, folder: Path | None = None) -> Iterator[Part]:
    """Parts of any mixture of files, PIL images and arrays; names of files are relative to the folder, if any."""
    iterator, first = iter(items), 0
    with ThreadPoolExecutor(available_cores()) as pool:
        while True:
            with large_images_allowed():  # not while the part is used elsewhere
                part = _part(iterator, first, reading, folder, pool)
            if part is None:
                return
            yield part
            first += len(part.readable)


def _part(
    iterator: Iterator[Any], first: int, reading: Reading, folder: Path | None, pool: ThreadPoolExecutor
) -> Part | None:
    """The next part, which begins with image number `first`; None if nothing is left."""
    files: dict[int, Path] = {}
    rows: dict[int, np.ndarray] = {}
    waiting: dict[int, Any] = {}
    problems: dict[int, str] = {}
    count = 0
    for count, item in enumerate(islice(iterator, PART), 1):
        if is_gap(item):
            problems[count - 1] = "no file is named"
        elif isinstance(item, str | Path):
            files[count - 1] = Path(item)
        else:  # a few at a time: photographs are large, and may hold their files open
            waiting[count - 1] = item
            if len(waiting) == FEW * available_cores():
                rows |= _reduced(waiting, first, reading, pool)
                waiting = {}
    if not count:
        return None
    rows |= _reduced(waiting, first, reading, pool)
    problems = dict(sorted((problems | _read_files(files, rows, reading)).items()))
    readable = np.array([place not in problems for place in range(count)])
    empty = np.empty((0, reading.side or 0, reading.side or 0, 3), np.uint8)
    images = np.stack([rows[place] for place in sorted(rows)]) if rows else empty
    names = [_name(files[place], folder) if place in files else None for place in range(count)]
    return Part(images, readable, names, problems)


def _reduced(items: Mapping[int, Any], first: int, reading: Reading, pool: ThreadPoolExecutor) -> dict[int, np.ndarray]:
    """Place → PIL image or array, as uint8 [side, side, 3]. `first` is the number of place 0 among all images."""

    def read(place: int) -> np.ndarray:
        assert reading.side is not None
        try:
            image = as_image(items[place], f"image {first + place}", IN_MEMORY)
            return read_image(image, reading.side, reading.fit, reading.pixel_max or WHITE)[0]
        except UserError:
            raise
        except Exception as error:  # of a PIL image whose file is read only now
            raise data_error(IN_MEMORY, f"image {first + place} cannot be read ({error}): leave it out") from error

    return dict(zip(items, pool.map(read, items), strict=True))


def _read_files(files: Mapping[int, Path], rows: dict[int, np.ndarray], reading: Reading) -> dict[int, str]:
    """Adds the images of files to `rows`, and says which cannot be read, and why."""
    if not files:
        return {}
    for path in files.values():
        if os.path.isdir(path):
            raise data_error(path, "a folder among files: give its files, or the folder alone")
    read = read_photographs(list(files.values()), reading)
    images = iter(read.images)
    for place, good in zip(files, read.readable, strict=True):
        if good:
            rows[place] = next(images)
    return {
        place: NOT_FROM_THE_WEB if is_address(path) else read.problems[path]
        for place, path in files.items()
        if path in read.problems
    }


def _name(path: Path, folder: Path | None) -> str:
    return (path if folder is None else path.relative_to(folder)).as_posix()
