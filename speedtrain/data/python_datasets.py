"""Data sets in Python: anything with a length and items (image, label)."""

import operator
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
from PIL import Image

from speedtrain.data.image_files import Reading, note_on_fit, white_in
from speedtrain.data.mapped import empty_images
from speedtrain.data.photograph import SIDE, WHITE, highest_value, large_images_allowed, read_image
from speedtrain.data.source import Source, class_numbers, data_error
from speedtrain.machine import available_cores

SAMPLE = 256
"""Items whose sizes decide the natural side, at most twice as many."""


def is_indexable(data: Any) -> bool:
    """Whether it has a length, and items by number."""
    return hasattr(data, "__len__") and hasattr(data, "__getitem__")


def read_indexable(dataset: Any, name: str, reading: Reading, *, in_parallel: bool = False) -> Source:
    """The labelled images of a data set.

    Args:
        dataset: items (image, label), numbered from 0. An image is a PIL image, or uint8 [H, W], [H, W, 1] or
            [H, W, 3]. A label is the number of a class, from 0, or its name. `dataset.classes` names numbered classes,
            if it is there.
        name: as in `Source`.
        reading: how the images are read.
        in_parallel: whether several items are asked for at a time. Default: no, since a data set may keep state.

    Raises:
        UserError: an item is not as it should be.
    """
    count = len(dataset)
    if not count:
        raise data_error(name, "it holds no images: give at least two per class")
    sample = range(0, count, max(1, count // SAMPLE))
    with large_images_allowed(), ThreadPoolExecutor(available_cores()) if in_parallel else nullcontext() as pool:
        each = pool.map if pool else map
        looked_at = [(image.size, image.mode) for image, _ in (_item(dataset, place, name) for place in sample)]
        side, on_side = reading.decide_side((size for size, _ in looked_at), count)
        white, on_depth = white_in([], reading)
        if any(mode.startswith("I") for _, mode in looked_at):
            highest = list(each(lambda place: highest_value(_item(dataset, place, name)[0]), range(count)))
            white, on_depth = white_in(highest, reading)
        images = empty_images(count, side)

        def read(place: int) -> tuple[int | str, bool, bool, bool]:
            image, label = _item(dataset, place, name)
            try:
                images[place], size = read_image(image, side, reading.fit, white or WHITE)
            except Exception as error:  # of a file that is read only now
                raise data_error(name, f"image {place} cannot be read ({error}): mend or remove it") from error
            return label, size != (side, side), size[0] != size[1], image.mode == "RGB"

        items = list(_with_progress(each(read, range(count)), count, reading))
    labels, resized, oblong, colour = (list(column) for column in zip(*items, strict=True))
    numbers, classes = _classes(labels, dataset, name)
    fitted = note_on_fit(sum(resized), sum(oblong), count, side, reading.fit)
    notes = [*on_side, *on_depth, *([fitted] if any(resized) else [])]
    return Source(
        name=name,
        where=name,
        images=images,
        labels=numbers,
        classes=classes,
        notes=tuple(f"{name}: {note}" for note in notes),
        by_name=isinstance(labels[0], str),
        native=side == SIDE and all(colour) and not any(resized),
        pixel_max=white,
    )


def _item(dataset: Any, place: int, name: str) -> tuple[Image.Image, int | str]:
    """The image and the label at a place, checked."""
    try:
        item = dataset[place]
    except Exception as error:  # a data set raises whatever it likes
        raise data_error(name, f"item {place} cannot be had ({type(error).__name__}: {error}): mend it") from error
    if not (isinstance(item, tuple | list) and len(item) == 2):
        raise data_error(
            name, f"item {place} is a {type(item).__name__}: give pairs (image, label), or a tuple of two arrays"
        )
    image, label = as_image(item[0], f"image {place}", name), item[1]
    if isinstance(label, str):
        return image, label
    try:
        return image, operator.index(label)
    except TypeError:
        what = f"label {place} is a {type(label).__name__}"
        raise data_error(name, f"{what}: give the number of one class, from 0, or its name") from None


def refuse_undecoded(image: Any, which: str, name: str) -> None:
    """Refuses an image file that is given by its content.

    Args:
        which, name: as for `as_image`.

    Raises:
        UserError: it is bytes or an open file.
    """
    kind = type(image).__name__
    if isinstance(image, bytes | bytearray | memoryview):
        raise data_error(name, f"{which} is {kind}: give the path of a file, or PIL's Image.open(io.BytesIO(…))")
    if hasattr(image, "read"):
        raise data_error(name, f"{which} is an open file ({kind}): give its path, or PIL's Image.open of it")


def as_image(image: Any, which: str, name: str) -> Image.Image:
    """A PIL image, or uint8 [H, W], [H, W, 1] or [H, W, 3], as a PIL image.

    Args:
        which, name: for errors: the image, and where it comes from.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(image, Image.Image):
        return image
    refuse_undecoded(image, which, name)
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3))):
        what = f"{which} is {pixels.dtype} of shape {pixels.shape}"
        raise data_error(name, f"{what}: give PIL images or uint8 [H, W, 3], without a transform to tensors")
    if not pixels.size:
        raise data_error(name, f"{which} has no pixels: remove it")
    return Image.fromarray(pixels.squeeze(2) if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def _with_progress(items: Any, count: int, reading: Reading) -> Iterator[Any]:
    for done, item in enumerate(items, 1):
        yield item
        if reading.progress:
            reading.progress(done, count)


def _classes(labels: list[int | str], dataset: Any, name: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Numbers [N] and names of the classes; None where they are only numbered."""
    names = [label for label in labels if isinstance(label, str)]
    if len(names) == len(labels):
        return class_numbers(names)
    if names:
        raise data_error(
            name, f"some labels are names, {names[0]!r} for one, others are numbers: give one or the other"
        )
    numbers = np.array(labels, dtype=object)
    if numbers.min() < 0 or numbers.max() >= 2**31:
        odd = min(numbers.min(), numbers.max(), key=lambda label: label >= 0)
        raise data_error(name, f"label {odd} is out of range: number the classes from 0")
    known = getattr(dataset, "classes", None)
    if not isinstance(known, list | tuple) or len(known) <= numbers.max():
        return numbers.astype(np.int64), None
    # torchvision's Imagenette and ImageNet give several names for a class
    classes = tuple(str(each[0] if isinstance(each, tuple) and each else each) for each in known)
    return numbers.astype(np.int64), classes if len(set(classes)) == len(classes) else None
