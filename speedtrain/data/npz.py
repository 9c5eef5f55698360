"""Images and labels in an .npz: its layouts, read without executing anything."""

import os
import zipfile
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from speedtrain.data.arrays import check_arrays
from speedtrain.data.photographs import Reading
from speedtrain.data.source import Source, data_error, unreadable
from speedtrain.errors import UserError

OURS = (("images", "labels"),)
LAYOUTS = (
    (("train_images", "train_labels"), ("test_images", "test_labels")),  # MedMNIST's
    (("x_train", "y_train"), ("x_test", "y_test")),  # Keras'
)
"""Keys of images and labels: of the training images, and of the test images."""


def read_npz(path: Path, required: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays `images`, `labels` and `classes` of an .npz, as far as it holds them. Never unpickles.

    Of an .npz with splits these are the test images, which it is named for where there is nothing to train.

    Raises:
        UserError: not a whole .npz of plain arrays, or one of the `required` is missing.
    """
    splits, classes, _ = _read(path, required)
    return {**splits[-1], **classes}


def sources_from_npz(path: Path, name: str, reading: Reading) -> tuple[Source, Source | None]:
    """The labelled images of an .npz, and its own test images where it has any.

    Raises:
        UserError: it cannot be read, or is not as it should be.
    """
    splits, classes, unused = _read(path, required=("images", "labels"))
    train = check_arrays(name, str(path), reading, **splits[0], **classes)
    if len(splits) == 1:
        return train, None
    test = check_arrays(name, str(path), replace(reading, side=train.images.shape[1]), **splits[1], **classes)
    notes = (f"{name}: {', '.join(unused)} in it are not used",) if unused else ()
    return replace(train, notes=(*train.notes, *notes)), test


Arrays = dict[str, np.ndarray]


def _read(path: Path, required: tuple[str, ...]) -> tuple[list[Arrays], Arrays, list[str]]:
    """What an .npz holds.

    Returns:
        `images` and `labels` of each split: of the only one, or of training and test; `classes`, if there are any; and
        the names of the other arrays.
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
                layout = next((pairs for pairs in LAYOUTS if {*chain.from_iterable(pairs)} <= names), OURS)
                missing = [key for key in required if layout is OURS and key not in archive]
                if missing:
                    there = ", ".join(archive.files) or "nothing"
                    raise data_error(path, f"no {missing[0]!r} in it (it holds {there}): {advice}")
                splits = [
                    {name: archive[key] for name, key in zip(("images", "labels"), keys, strict=True) if key in archive}
                    for keys in layout
                ]
                classes = {"classes": archive["classes"]} if "classes" in archive else {}
                unused = sorted(names - {"classes", *chain.from_iterable(layout)})
    except UserError:
        raise
    except MemoryError as error:
        raise data_error(path, f"an array in it does not fit into memory ({error}): write a smaller one") from error
    except OSError as error:
        raise unreadable(path, error) from error
    # zipfile, zlib, lzma, struct, numpy's parser of headers: each has its own ways to fail on a damaged file
    except Exception as error:
        raise data_error(path, f"damaged, or not plain arrays ({error}): {advice}") from error
    for part in (*splits, classes):
        for key, array in part.items():
            if not isinstance(array, np.ndarray):  # a member that is no .npy comes as its bytes
                raise data_error(path, f"{key!r} in it is not an array: {advice}")
    if layout is not OURS:  # their labels stand in a column
        for split in splits:
            if split["labels"].ndim == 2 and split["labels"].shape[1] == 1:
                split["labels"] = split["labels"][:, 0]
    return splits, classes, unused
