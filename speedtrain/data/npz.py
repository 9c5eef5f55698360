"""Images and labels in an .npz: its layouts, read without executing anything."""

import math
import os
import zipfile
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from speedtrain.data.arrays import check_arrays
from speedtrain.data.image_files import Reading
from speedtrain.data.mapped import is_large, read_mapped
from speedtrain.data.photograph import IMAGE_SUFFIXES
from speedtrain.data.source import Source, data_error, unreadable
from speedtrain.data.splits import TEST_SPLITS, TRAIN, Sources, SplitChoice, read_chosen
from speedtrain.errors import UserError

NO_IMAGES = "neither an image that can be read, nor an .npz"
"""What is wrong with another file where images of either kind are wanted."""
NAMED = 5
"""Entries of a file that an error names."""
OURS = {TRAIN: ("images", "labels")}
LAYOUTS = (
    ("{}_images", "{}_labels"),  # MedMNIST's
    ("x_{}", "y_{}"),  # Keras'
)
"""Keys of a split's images and labels."""
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Version of numpy's format → what reads the header of an array; the third is for other than plain arrays."""


def is_npz(path: Path) -> bool:
    """Whether a file is taken for an .npz, be it damaged: by its suffix, or else by its first bytes.

    Raises:
        UserError: it cannot be read.
    """
    if path.suffix.lower() == ".npz":
        return True
    try:
        with path.open("rb") as file:
            return file.read(2) == b"PK"
    except OSError as error:
        raise unreadable(path, error) from error


def read_npz(path: Path, required: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays `images`, `labels` and `classes` of an .npz, as far as it holds them. Never unpickles.

    Of an .npz with splits these are the test images, which it is named for where there is nothing to train.

    Raises:
        UserError: not a whole .npz of plain arrays, or one of the `required` is missing.
    """
    splits, classes, _ = _read(path, required)
    return {**next(splits[split] for split in (*TEST_SPLITS, TRAIN) if split in splits), **classes}


def sources_from_npz(path: Path, name: str, reading: Reading, choice: SplitChoice) -> Sources:
    """The labelled images of an .npz, and its own test images where it has any.

    Raises:
        UserError: it cannot be read, or is not as it should be.
    """
    splits, classes, unused = _read(path, required=("images", "labels"))

    def read(split: str, reading: Reading) -> Source:
        return check_arrays(name, str(path), reading, **splits[split], **classes)

    train, test = read_chosen({split: split for split in splits}, name, str(path), read, reading, choice)
    notes = (f"{name}: {', '.join(unused)} in it are not used",) if unused else ()
    return replace(train, notes=(*train.notes, *notes)), test


def _array(archive: np.lib.npyio.NpzFile, key: str, path: Path) -> np.ndarray:
    """An array of an .npz; one that is too large for memory is mapped."""
    member = f"{key}.npy"
    assert archive.zip is not None  # it is open
    known = archive.zip.NameToInfo.get(member)
    if known is None or not is_large(known.file_size):
        return archive[key]
    with archive.zip.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in HEADERS:
            return archive[key]
        shape, fortran, kind = HEADERS[version](file)
        if kind.hasobject or not (kind.itemsize and math.prod(shape)):  # which numpy refuses, or which take no room
            return archive[key]
        array = read_mapped(file, shape, kind, "F" if fortran else "C", path)
        file.read(1)  # at the end, the sum is checked
        return array


Arrays = dict[str, np.ndarray]


def _layout(names: set[str]) -> dict[str, tuple[str, str]]:
    """Split → its keys in an .npz that holds these."""
    for images, labels in LAYOUTS:
        splits = {split: (images.format(split), labels.format(split)) for split in (TRAIN, *TEST_SPLITS)}
        there = {split: keys for split, keys in splits.items() if names.issuperset(keys)}
        if TRAIN in there:
            return there
    return OURS


def _read(path: Path, required: tuple[str, ...]) -> tuple[dict[str, Arrays], Arrays, list[str]]:
    """What an .npz holds.

    Returns:
        `images` and `labels` of each split, the only one being `TRAIN`; `classes`, if there are any; and the names of
        further arrays beside splits.
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
                names = set(archive.files)
                layout = _layout(names)
                missing = [key for key in required if layout is OURS and key not in archive]
                if missing:
                    there = ", ".join(archive.files[:NAMED]) or "nothing"
                    more = f" and {len(archive.files) - NAMED} more" if len(archive.files) > NAMED else ""
                    if any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in archive.files):
                        advice = "unpack it, and give the folder"
                    raise data_error(path, f"no {missing[0]!r} in it (it holds {there}{more}): {advice}")
                splits = {
                    split: {
                        name: _array(archive, key, path)
                        for name, key in zip(("images", "labels"), keys, strict=True)
                        if key in archive
                    }
                    for split, keys in layout.items()
                }
                classes = {"classes": archive["classes"]} if "classes" in archive else {}
                unused = [] if layout is OURS else sorted(names - {"classes", *chain.from_iterable(layout.values())})
    except UserError:
        raise
    except MemoryError as error:
        raise data_error(path, f"an array in it does not fit into memory ({error}): write a smaller one") from error
    except OSError as error:
        raise unreadable(path, error) from error
    # zipfile, zlib, lzma, struct, numpy's parser of headers: each has its own ways to fail on a damaged file
    except Exception as error:
        raise data_error(path, f"damaged, or not plain arrays ({error}): {advice}") from error
    for part in (*splits.values(), classes):
        for key, array in part.items():
            if not isinstance(array, np.ndarray):  # a member that is no .npy comes as its bytes
                raise data_error(path, f"{key!r} in it is not an array: {advice}")
    if layout is not OURS:  # their labels stand in a column
        for split in splits.values():
            if split["labels"].ndim == 2 and split["labels"].shape[1] == 1:
                split["labels"] = split["labels"][:, 0]
    return splits, classes, unused
