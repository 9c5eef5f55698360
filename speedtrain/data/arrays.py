"""Arrays of images and labels, checked."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from speedtrain.config import IN_MEMORY
from speedtrain.data.annotators import check_votes, look_like_classes, majority
from speedtrain.data.image_files import Reading
from speedtrain.data.mapped import empty_images
from speedtrain.data.photograph import FITTED, SIDE, fit, white_of
from speedtrain.data.source import Arrays, Source, data_error


class Standard(NamedTuple):
    """Images brought to the form that training takes.

    Attributes:
        images: uint8 [N, side, side, 3].
        notes: what was done to them.
        pixel_max: the integer that stands for white where they were wider than uint8, else None.
    """

    images: np.ndarray
    notes: list[str]
    pixel_max: int | None = None


def read_arrays(arrays: Arrays, reading: Reading) -> Source:
    """A source of (images, labels), which may be anything that numpy makes an array of."""
    if len(arrays) != 2:
        raise data_error(IN_MEMORY, f"a tuple of {len(arrays)} given: give (images, labels)")
    try:
        images, labels = (np.asarray(array) for array in arrays)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on another device
        raise data_error(IN_MEMORY, f"these are not arrays ({error}): give (images, labels) as numpy arrays") from error
    return check_arrays(IN_MEMORY, IN_MEMORY, reading, images, labels)


def check_arrays(
    name: str,
    where: str,
    reading: Reading,
    images: np.ndarray,
    labels: np.ndarray,
    classes: np.ndarray | None = None,
) -> Source:
    """Checks arrays as found and brings them to the form of a source.

    Args:
        name: as in `Source`.
        where: as in `Source`.
        reading: the side and fit of the result.
        images: [N, H, W, C] or [N, H, W].
        labels: [N]; or [N, A] of A annotators, -1 where one gave none.
        classes: strings [K].

    Raises:
        UserError: any of them is not as it should be.
    """
    standard, notes, pixel_max = standard_images(images, where, reading)
    if not reading.from_annotators and _are_one_hot(labels):
        otherwise = "if these 0 and 1 are from annotators, choose by --labels"
        raise data_error(where, f"labels are one-hot, of shape {labels.shape}: give labels.argmax(1); {otherwise}")
    if labels.dtype.kind not in "iu":
        if labels.ndim == 2 and labels.dtype.kind == "f" and np.isnan(labels).any():
            raise data_error(where, "labels hold NaN: give whole numbers from 0, and -1 for no label")
        plain = labels.dtype.kind == "b" or (labels.dtype.kind == "f" and bool((labels == np.floor(labels)).all()))
        hint = ": give labels.astype(int)" if plain else ": give whole numbers from 0"
        raise data_error(where, f"labels are {labels.dtype}, not whole numbers{hint}")
    if labels.ndim == 2 and len(labels) != len(images):
        raise data_error(where, f"{len(labels)} rows of labels for {len(images)} images: give one per image")
    several = labels.ndim == 2 and labels.shape[1] > 1
    as_classes = several and not reading.from_annotators and look_like_classes(labels)
    if labels.ndim != 1 and (as_classes or not several):
        hint = "one class per image; images of several classes at once are not supported"
        if labels.size == len(images):
            hint = "labels.ravel()"
        annotators = ". If these 0 and 1 are from annotators, choose by --labels" if as_classes else ""
        raise data_error(where, f"labels have shape {labels.shape}, not [N]: give {hint}{annotators}")
    if len(labels) != len(images):
        raise data_error(where, f"{len(labels)} labels for {len(images)} images: give one per image")
    if several:
        check_votes(labels, where, reading.from_annotators)
    elif labels.min() < 0:
        raise data_error(where, f"label {labels.min()} is negative: number the classes from 0")
    if labels.max() > np.iinfo(np.int64).max:
        raise data_error(where, f"label {labels.max()} is too large: number the classes from 0")
    numbers = labels.astype(np.int64)
    names = None if classes is None else _class_names(classes, where)
    if names is not None and numbers.max() >= len(names):
        raise data_error(where, f"label {numbers.max()} but only {len(names)} names in classes: name every class")
    return Source(
        name=name,
        where=where,
        images=standard,
        labels=majority(numbers) if several else numbers,
        votes=numbers if several else None,
        classes=names,
        notes=tuple(f"{name}: {note}" for note in notes),
        native=images.shape[1:] == (SIDE, SIDE, 3),
        pixel_max=pixel_max,
    )


def _are_one_hot(labels: np.ndarray) -> bool:
    """Whether each row has one 1 among 0s."""
    if labels.ndim != 2 or labels.shape[1] < 2 or labels.dtype.kind not in "biuf" or not len(labels):
        return False
    return bool(((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all())


def _class_names(classes: np.ndarray, where: str) -> tuple[str, ...]:
    """The names in an array of strings [K]."""
    if classes.dtype.kind != "U" or classes.ndim != 1:
        found = f"{classes.dtype} of shape {classes.shape}"
        raise data_error(where, f"classes are {found}, not a list of names: give numpy.array([...], dtype=str)")
    names = tuple(str(name) for name in classes)
    if len(set(names)) < len(names):
        raise data_error(where, "two classes have the same name: give each its own")
    return names


def standard_images(images: np.ndarray, where: str, reading: Reading) -> Standard:
    """Checks an array of images and brings it to the standard reading.

    Args:
        images: uint8, wider integers, or floats within [0, 1] or [0, 255]; [N, H, W, C] with 1 or 3 channels, or
            [N, H, W].
        where: how an error calls it.
        reading: the side and fit of the result, and what integers stand for white.

    Raises:
        UserError: another type or shape, or values out of range.
    """
    if images.ndim not in (3, 4):
        raise data_error(where, f"images have shape {images.shape}: give [N, H, W, 3], [N, H, W, 1] or [N, H, W]")
    count, height, width = images.shape[:3]
    channels = images.shape[3] if images.ndim == 4 else 1
    if channels not in (1, 3):
        hint = "images.transpose(0, 2, 3, 1)" if images.shape[1] in (1, 3) else "grey or RGB"
        raise data_error(where, f"images have {channels} channels (shape {images.shape}), not 1 or 3: give {hint}")
    if not count:
        raise data_error(where, "it holds no images: give at least two per class")
    if not (height and width):
        raise data_error(where, f"images of {height}×{width} pixels: give images of at least 1×1")

    notes, pixel_max = [], None
    factor: float | None = None
    if images.dtype.kind == "f":
        white = _white_of_floats(images, where)
        notes.append(f"{images.dtype} images from 0 to {white}, converted to uint8")
        factor = 255 // white
    elif images.dtype.kind in "iu" and images.dtype != np.uint8:
        pixel_max = _pixel_max(images, where, reading)
        notes.append(f"{images.dtype} images from 0 to {pixel_max}, converted to uint8 (--set pixel_max=N changes it)")
        factor = 255 / pixel_max
    elif images.dtype != np.uint8:
        raise data_error(where, f"images are {images.dtype}: give uint8, 0 to 255")

    images = images.reshape(count, height, width, channels)
    if channels == 1:
        notes.append("grey images, repeated to RGB")
    side, on_side = reading.decide_side([(width, height)], count)
    notes += on_side
    if height != width:
        notes.append(f"{height}×{width} images, {FITTED[reading.fit]} {side}×{side}")
    elif height != side:
        notes.append(f"{height}×{width} images, resized to {side}×{side}")
    as_wanted = (height, width) == (side, side)
    if as_wanted and channels == 3 and factor is None and images.flags.c_contiguous:
        return Standard(images, notes, pixel_max)
    standard = empty_images(count, side)
    for done, (row, image) in enumerate(zip(standard, images, strict=True), 1):  # the whole in floats is large
        pixels = image if factor is None else np.rint(image * factor).astype(np.uint8)
        if as_wanted:
            row[:] = pixels
        else:
            row[:] = fit(Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels), side, reading.fit)
        if reading.progress:
            reading.progress(done, count)
    return Standard(standard, notes, pixel_max)


def _pixel_max(images: np.ndarray, where: str, reading: Reading) -> int:
    """The integer that stands for white: the one asked for, or the largest of the smallest depth that holds them."""
    low, high = int(images.min()), int(images.max())
    if low < 0:
        raise data_error(where, f"images are {images.dtype} from {low} to {high}: give values from 0")
    if reading.pixel_max is None:
        white = white_of(high)
        if white is None:
            raise data_error(where, f"images are {images.dtype} up to {high}: give at most 16 bits, 0 to 65535")
        return white
    if high > reading.pixel_max:
        what = f"images go up to {high}, and {reading.pixel_max} is white, by pixel_max or by the training images"
        raise data_error(where, f"{what}: scale them alike, or train with a larger pixel_max")
    return reading.pixel_max


def _white_of_floats(images: np.ndarray, where: str) -> int:
    """The value that stands for white: 1 or 255."""
    low, high = images.min(), images.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise data_error(where, "images hold NaN or infinity: give uint8, 0 to 255")
    if low < 0 or high > 255:
        raise data_error(where, f"images run from {low:g} to {high:g}, neither 0 to 1 nor 0 to 255: give uint8")
    if 1 < high < 2:
        raise data_error(where, f"images go up to {high:g}, just above 1: clip them, as by images.clip(0, 1)")
    return 1 if high <= 1 else 255
