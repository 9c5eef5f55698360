"""Labelled images: as read from one source, and as a run uses them."""

import hashlib
import math
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from speedtrain.data.mapped import take
from speedtrain.errors import UserError

if TYPE_CHECKING:
    from speedtrain.data.annotators import Agreement

Arrays = tuple[np.ndarray, np.ndarray]

GAPS = ("NAType", "NaTType")
"""Types of what stands in a column of pandas where there is nothing, beside None and NaN."""


@dataclass(frozen=True)
class Images:
    """A labelled set.

    Attributes:
        name: "cifar10", "digits", "arrays", or the name of the file or folder.
        images: uint8 [N, side, side, 3].
        labels: int64 [N], 0..K-1.
        classes: the K names; the numbers themselves where the source gives none.
        native: whether every image was 32×32 in colour already, as CIFAR-10's are.
        files: names of the N image files, relative to their folder; None where the images come from no files.
        pixel_max: the integer that stood for white where they came as integers wider than uint8, else None.
        groups: names [N], objects; images of one group belong together; None where nobody said so.
        votes: int64 [N, A], the labels of A annotators, -1 where one gave none; `labels` is their majority or what was
            made of them. None where each image has one label.
        targets: float32 [N, K], how much of each class an image is trained on, instead of `labels`; None for these.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    native: bool = False
    files: tuple[str, ...] | None = None
    pixel_max: int | None = None
    groups: np.ndarray | None = None
    votes: np.ndarray | None = None
    targets: np.ndarray | None = None

    @property
    def like_cifar10(self) -> bool:
        """Whether images and labels are such that the scaling law may be asked: 32×32 in colour, classes of about the
        same size, and one label each."""
        return self.native and self.votes is None and not uneven(np.bincount(self.labels))

    def sha256(self) -> str:
        """Hex digest of the image bytes followed by the labels as little-endian int64, and the targets, if any."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        digest.update(self.labels.astype("<i8").data)
        if self.targets is not None:
            digest.update(self.targets.astype("<f4").data)
        return digest.hexdigest()

    def subset(self, chosen: np.ndarray) -> "Images":
        """The images chosen, by bool [N] or by indices, with all that belongs to each."""
        files = None if self.files is None else tuple(np.array(self.files, dtype=object)[chosen])

        def of(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[chosen]

        return replace(
            self,
            images=take(self.images, chosen),
            labels=self.labels[chosen],
            files=files,
            groups=of(self.groups),
            votes=of(self.votes),
            targets=of(self.targets),
        )


@dataclass(frozen=True)
class Data:
    """What a run trains on and is scored on.

    Attributes:
        train: the training images, every class among them.
        test: the test images, numbered as the training classes. Some classes may have none.
        test_is_holdout: whether the test images were held out of the training images given.
        notes: one-line messages for the user.
        root: the folder in which CIFAR-10 lies, None where CIFAR-10 was not needed.
        skipped: files that were left out because they cannot be read.
        annotators: how far those who labelled the training images agree; None where each image has one label.
        labels: what their labels became, one of `annotators.WAYS` or a number; None with `annotators`.
    """

    train: Images
    test: Images
    test_is_holdout: bool
    notes: tuple[str, ...]
    root: str | None = None
    skipped: tuple[str, ...] = ()
    annotators: "Agreement | None" = None
    labels: str | int | None = None

    @property
    def side(self) -> int:
        """Pixels a side of every image."""
        return self.train.images.shape[1]


@dataclass(frozen=True)
class Source:
    """Labelled images as read. Each image and label is checked; the set as a whole is not yet.

    Attributes:
        name: as in `Images`.
        where: its name in error messages, the whole path.
        images: uint8 [N, side, side, 3], N ≥ 1.
        labels: int64 [N], 0 or more; below the number of names in `classes`.
        classes: their names, None where they are only numbered.
        notes: what was done to the images.
        by_name: whether the class names alone identify the classes and the numbers only follow their order, as in a
            folder.
        native, files, pixel_max, votes: as in `Images`.
        groups: names of the N images' groups; None where nobody gave them.
        default_per_class: training images per class where the user gives no number.
        root: as in `Data`.
        problems: file that was left out, named as in `files` → why it cannot be read.
    """

    name: str
    where: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...] | None
    notes: tuple[str, ...] = ()
    by_name: bool = False
    native: bool = False
    files: tuple[str, ...] | None = None
    pixel_max: int | None = None
    groups: tuple[str, ...] | None = None
    votes: np.ndarray | None = None
    default_per_class: int | None = None
    root: str | None = None
    problems: Mapping[str, str] = field(default_factory=dict)


def is_gap(value: object) -> bool:
    """Whether a cell of a table, or an item of several, is what stands where there is nothing."""
    if isinstance(value, str):
        return not value.strip()
    nan = isinstance(value, float | np.floating) and math.isnan(value)
    return value is None or nan or type(value).__name__ in GAPS


def uneven(counts: Sequence[int] | np.ndarray) -> bool:
    """Whether classes with so many images differ by more than half: then accuracy alone may deceive."""
    return min(counts) < max(counts) / 2


def class_numbers(names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers classes in the order of their names: int64 [N], and the K names.

    Two spellings of a name in Unicode are one class.

    Args:
        names: of each image's class [N].
    """
    spelt = [in_one_spelling(name) for name in names]
    classes = tuple(sorted(set(spelt), key=natural_order))
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([numbers[name] for name in spelt], dtype=np.int64), classes


def in_one_spelling(name: str) -> str:
    """A name in one spelling, however the system composes its accents (NFC)."""
    return unicodedata.normalize("NFC", name)


def natural_order(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts `2` before `10`, and otherwise as text."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part)


def data_error(where: object, what: str) -> UserError:
    """An error of one line, whatever line breaks a file's name or a library's message may hold."""
    return UserError(" ".join(f"{where}: {what}".split()))


NOT_FROM_THE_WEB = "addresses of the web are not read: download the file first"


def is_address(path: Path) -> bool:
    """Whether a path leads nowhere and was meant as `https://…`; a `Path` has one slash of the two left."""
    return not os.path.exists(path) and any(len(part) > 2 and part.endswith(":") for part in path.parts[:-1])


def unreadable(path: Path, error: Exception) -> UserError:
    """The error for a path that the system cannot read."""
    reason = error.strerror if isinstance(error, OSError) else None
    return data_error(path, f"cannot be read ({reason or error}): check it and its permissions")
