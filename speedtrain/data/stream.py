"""Images without labels, in whatever form a person has them → parts of bounded size.

A path, several paths, a folder, an `.npz`, PIL images, arrays, a column of a data frame, a generator: nothing is held
but one part, so that any number of images takes the same memory.
"""

from collections.abc import Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from speedtrain.config import IN_MEMORY
from speedtrain.data.arrays import standard_images
from speedtrain.data.folder import files_to_predict, is_folder
from speedtrain.data.indexable import as_image
from speedtrain.data.npz import read_npz
from speedtrain.data.photograph import is_image_file, large_images_allowed, read_image
from speedtrain.data.photographs import Reading, read_photographs
from speedtrain.data.source import data_error
from speedtrain.errors import UserError
from speedtrain.machine import available_cores

PART = 1024
"""Images of a part."""


@dataclass(frozen=True)
class Part:
    """Some of the images.

    Attributes:
        images: uint8 [n, side, side, 3], those that could be read.
        readable: bool [m], of all: whether it could be read.
        names: of all; None for an image that comes from no file.
        problems: place among all of this part → why it cannot be read.
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
        images: the path of an image file, of a folder (of images, or of class folders) or of an `.npz`; a PIL image;
            an array: uint8, wider integers or floats, [H, W] or [H, W, C] for one image and [N, H, W] or [N, H, W, C]
            for several, with 1 or 3 channels C, where [a, b, 1] and [a, b, 3] are one image; or anything that gives
            paths of files, PIL images and uint8 arrays, one after another.
        reading: side, fit, and white in wide integers.

    Raises:
        UserError: there are no images, or it is none of these. Also while the parts are read, for an item that is no
            image. A file that cannot be read is one of the part's problems.
    """
    if isinstance(images, str | Path):
        return _named(Path(images), reading)
    if isinstance(images, Image.Image):
        return ImageStream(_parts([images], reading), 1, single=True)
    array = np.asarray(images) if hasattr(images, "__array__") else None
    if array is not None and array.ndim > 1 and hasattr(images, "columns"):
        raise data_error(IN_MEMORY, "a whole table given: give its column of paths, as in table['image']")
    if array is not None and array.dtype.kind not in "OUT":
        return _array(array, IN_MEMORY, reading)
    if not isinstance(images, Iterable):
        what = "a path, a PIL image, an array, or several of them"
        raise UserError(f"images is a {type(images).__name__}: give {what}")
    total = len(images) if isinstance(images, Sized) else None
    return ImageStream(_parts(images, reading), total)


def _named(path: Path, reading: Reading) -> ImageStream:
    """The image, or the images, at a path."""
    if is_folder(path):
        paths = files_to_predict(path)
        return ImageStream(_parts(paths, reading, path), len(paths))
    if is_image_file(path):
        return ImageStream(_parts([path], reading, path.parent), 1, single=True)
    return _array(read_npz(path, required=("images",))["images"], str(path), reading, several=True)


def _array(images: np.ndarray, where: str, reading: Reading, several: bool = False) -> ImageStream:
    """An array of one image or several."""
    single = not several and (images.ndim == 2 or (images.ndim == 3 and images.shape[2] in (1, 3)))
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
    assert reading.side is not None
    iterator, first = iter(items), 0
    while some := list(islice(iterator, PART)):
        files = {place: Path(item) for place, item in enumerate(some) if isinstance(item, str | Path)}
        images = np.empty((len(some), reading.side, reading.side, 3), np.uint8)
        readable = np.ones(len(some), bool)
        problems: dict[int, str] = {}
        if files:
            places, paths = list(files), list(files.values())
            for path in paths:
                if path.is_dir():
                    raise data_error(path, "a folder among files: give its files, or the folder alone")
            read = read_photographs(paths, reading)
            readable[places] = read.readable
            images[[place for place, good in zip(places, read.readable, strict=True) if good]] = read.images
            problems = {place: read.problems[path] for place, path in files.items() if path in read.problems}
        _read_in_memory(some, first, files.keys(), images, reading)
        names = [_name(files[place], folder) if place in files else None for place in range(len(some))]
        yield Part(images if readable.all() else images[readable], readable, names, problems)
        first += len(some)


def _read_in_memory(
    items: Sequence[Any], first: int, files: Iterable[int], images: np.ndarray, reading: Reading
) -> None:
    """Puts those of the items that are not files into `images`. `first` is the number of the first item of all."""
    side = images.shape[1]
    in_memory = [place for place in range(len(items)) if place not in files]

    def read(place: int) -> None:
        try:
            image = as_image(items[place], f"image {first + place}", IN_MEMORY)
            images[place], _ = read_image(image, side, reading.fit)
        except UserError:
            raise
        except Exception as error:  # of a PIL image whose file is read only now
            raise data_error(IN_MEMORY, f"image {first + place} cannot be read ({error}): leave it out") from error

    if in_memory:
        with large_images_allowed(), ThreadPoolExecutor(available_cores()) as pool:
            list(pool.map(read, in_memory))


def _name(path: Path, folder: Path | None) -> str:
    return (path if folder is None else path.relative_to(folder)).as_posix()
