"""Arrays of images and labels: from an .npz or from memory, checked."""

import os
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from speedtrain.config import IN_MEMORY
from speedtrain.data.photograph import fit, natural_side
from speedtrain.data.photographs import Reading
from speedtrain.data.source import Arrays, Source, data_error, unreadable
from speedtrain.errors import UserError


def read_npz(path: Path, required: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays `images`, `labels` and `classes` of an .npz, as far as it holds them. Never unpickles.

    Raises:
        UserError: not a whole .npz of plain arrays, or one of the `required` is missing.
    """
    advice = "write it with numpy.savez(path, images=..., labels=...), plain arrays only"
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise data_error(path, f"the file is empty: {advice}")
            if not zipfile.is_zipfile(file):
                raise data_error(path, f"not an .npz, or a truncated one: {advice}")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                missing = [key for key in required if key not in archive]
                if missing:
                    there = ", ".join(archive.files) or "nothing"
                    raise data_error(path, f"no {missing[0]!r} in it (it holds {there}): {advice}")
                arrays = {key: archive[key] for key in ("images", "labels", "classes") if key in archive}
    except UserError:
        raise
    except MemoryError as error:
        raise data_error(path, f"an array in it does not fit into memory ({error}): write a smaller one") from error
    except OSError as error:
        raise unreadable(path, error) from error
    # zipfile, zlib, lzma, struct, numpy's parser of headers: each has its own ways to fail on a damaged file
    except Exception as error:
        raise data_error(path, f"damaged, or not plain arrays ({error}): {advice}") from error
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):  # a member that is no .npy comes as its bytes
            raise data_error(path, f"{key!r} in it is not an array: {advice}")
    return arrays


def source_from_npz(path: Path, name: str, reading: Reading) -> Source:
    """The labelled images of an .npz.

    Raises:
        UserError: it cannot be read, or is not as it should be.
    """
    return check_arrays(name, str(path), **read_npz(path, required=("images", "labels")), reading=reading)


def read_arrays(arrays: Arrays, reading: Reading) -> Source:
    """A source of (images, labels), which may be anything that numpy makes an array of."""
    if len(arrays) != 2:
        raise data_error(IN_MEMORY, f"a tuple of {len(arrays)} given: give (images, labels)")
    try:
        images, labels = (np.asarray(array) for array in arrays)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on another device
        raise data_error(IN_MEMORY, f"these are not arrays ({error}): give (images, labels) as numpy arrays") from error
    return check_arrays(IN_MEMORY, IN_MEMORY, images, labels, reading=reading)


def check_arrays(
    name: str,
    where: str,
    images: np.ndarray,
    labels: np.ndarray,
    classes: np.ndarray | None = None,
    reading: Reading = Reading(),  # noqa: B008
) -> Source:
    """Checks arrays as found and brings them to the form of a source.

    Args:
        name: as in `Source`.
        where: as in `Source`.
        images: [N, H, W, C] or [N, H, W].
        labels: [N].
        classes: strings [K].
        reading: the side and fit of the result.

    Raises:
        UserError: any of them is not as it should be.
    """
    standard, notes = standard_images(images, where, reading)
    if labels.dtype.kind not in "iu":
        plain = labels.dtype.kind == "b" or (labels.dtype.kind == "f" and bool((labels == np.floor(labels)).all()))
        hint = ": give labels.astype(int)" if plain else ": give whole numbers from 0"
        raise data_error(where, f"labels are {labels.dtype}, not whole numbers{hint}")
    if labels.ndim != 1:
        hint = "labels.ravel()" if labels.size == len(images) else "one number per image"
        raise data_error(where, f"labels have shape {labels.shape}, not [N]: give {hint}")
    if len(labels) != len(images):
        raise data_error(where, f"{len(labels)} labels for {len(images)} images: give one per image")
    if labels.min() < 0:
        raise data_error(where, f"label {labels.min()} is negative: number the classes from 0")
    if labels.max() > np.iinfo(np.int64).max:
        raise data_error(where, f"label {labels.max()} is too large: number the classes from 0")
    numbers = labels.astype(np.int64)
    names = None if classes is None else _class_names(classes, where)
    if names is not None and numbers.max() >= len(names):
        raise data_error(where, f"label {numbers.max()} but only {len(names)} names in classes: name every class")
    return Source(name, where, standard, numbers, names, tuple(f"{name}: {note}" for note in notes))


def _class_names(classes: np.ndarray, where: str) -> tuple[str, ...]:
    """The names in an array of strings [K]."""
    if classes.dtype.kind != "U" or classes.ndim != 1:
        found = f"{classes.dtype} of shape {classes.shape}"
        raise data_error(where, f"classes are {found}, not a list of names: give numpy.array([...], dtype=str)")
    names = tuple(str(name) for name in classes)
    if len(set(names)) < len(names):
        raise data_error(where, "two classes have the same name: give each its own")
    return names


def standard_images(
    images: np.ndarray,
    where: str,
    reading: Reading = Reading(),  # noqa: B008
) -> tuple[np.ndarray, list[str]]:
    """Checks an array of images and brings it to the standard form.

    Args:
        images: uint8, or floats within [0, 1] or [0, 255]; [N, H, W, C] with 1 or 3 channels, or [N, H, W].
        where: how an error calls it.
        reading: the side and fit of the result.

    Returns:
        uint8 [N, side, side, 3], and notes on what was done.

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

    notes = []
    if images.dtype.kind == "f":
        images, note = _from_floats(images, where)
        notes.append(note)
    elif images.dtype != np.uint8:
        hint = "images.astype(numpy.uint8)" if images.dtype.kind in "iu" else "uint8, 0 to 255"
        raise data_error(where, f"images are {images.dtype}, not uint8: give {hint}")

    images = images.reshape(count, height, width, channels)
    if channels == 1:
        notes.append("grey images, repeated to RGB")
    side = reading.side or natural_side([(width, height)])
    if height != width:
        done = {
            "crop": "cut to their centred square and resized to",
            "pad": "resized and filled up with their mean colour to",
            "squash": "squashed to",
        }[reading.fit]
        notes.append(f"{height}×{width} images, {done} {side}×{side}")
    elif height != side:
        notes.append(f"{height}×{width} images, resized to {side}×{side}")
    if (height, width) == (side, side):
        return np.ascontiguousarray(np.broadcast_to(images, (count, side, side, 3))), notes
    standard = np.empty((count, side, side, 3), np.uint8)
    for row, image in zip(standard, images, strict=True):
        row[:] = fit(Image.fromarray(image.squeeze(2) if channels == 1 else image), side, reading.fit)
    return standard, notes


def _from_floats(images: np.ndarray, where: str) -> tuple[np.ndarray, str]:
    """uint8 of the same shape, and a note on how."""
    low, high = images.min(), images.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise data_error(where, "images hold NaN or infinity: give uint8, 0 to 255")
    if low < 0 or high > 255:
        raise data_error(where, f"images run from {low:g} to {high:g}, neither 0 to 1 nor 0 to 255: give uint8")
    scale = 255 if high <= 1 else 1
    converted = np.empty(images.shape, np.uint8)
    for row, image in zip(converted, images, strict=True):  # one at a time: the whole in floats is large
        row[:] = np.rint(image * scale)
    return converted, f"{images.dtype} images from 0 to {255 // scale}, converted to uint8"
