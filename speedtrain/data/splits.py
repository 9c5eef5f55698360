"""From labelled images to training and test images: classes checked, holdout, limit per class, duplicates."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from speedtrain.data.source import Images, Source, data_error


def training_set(source: Source) -> Images:
    """The whole source as training images.

    Raises:
        UserError: one class only, or a class without images.
    """
    present = np.unique(source.labels)
    if len(present) == 1:
        raise data_error(source.where, "all images are of one class: give at least two classes")
    # Before naming them all: labels from a file may be as large as 2⁶³.
    num_classes = len(source.classes) if source.classes else int(present[-1]) + 1
    missing = _first_missing(present, num_classes)
    if missing is not None:
        name = source.classes[missing] if source.classes else str(missing)
        raise data_error(source.where, f"class {name!r} has no training image: add some, or number without gaps from 0")
    return Images(source.name, source.images, source.labels, source.classes or _numbers(num_classes), source.files)


def test_set(source: Source, train: Images, named: bool) -> tuple[Images, list[str]]:
    """The whole source as test images for `train`, and notes.

    Args:
        source: the test images as read.
        train: the training images.
        named: whether their source names the classes of `train`, or only numbers them.

    Raises:
        UserError: the two disagree on the classes, or a class has no test image.
    """
    labels, notes = source.labels, list(source.notes)
    names = source.classes or train.classes
    if source.by_name and set(names) == set(train.classes):
        labels = np.array([train.classes.index(name) for name in names])[labels]
    elif named and names != train.classes:
        odd = sorted(set(names) ^ set(train.classes))
        what = f"{odd[0]!r} is in only one of them" if odd else "they are in another order"
        raise data_error(source.where, f"not the classes of the training images ({what}): name and number both alike")
    elif named == (source.classes is None) and names != _numbers(len(names)):
        notes.append(
            f"only one of {train.name} and {source.name} names its classes: "
            f"0 is taken for {names[0]!r} in both, and so on"
        )
    num_classes = len(train.classes)
    if labels.max() >= num_classes:
        raise data_error(
            source.where,
            f"test label {labels.max()}, but the training images have {num_classes} classes from 0: number both alike",
        )
    missing = _first_missing(np.unique(labels), num_classes)
    if missing is not None:
        raise data_error(source.where, f"class {train.classes[missing]!r} has no test image: add some to it")
    return Images(source.name, source.images, labels, train.classes, source.files), notes


def hold_out(train: Images, where: str) -> tuple[Images, Images, str]:
    """What remains of the training images, a fifth of each class held out for testing, and a note.

    Raises:
        UserError: a class has a single image.
    """
    counts = np.bincount(train.labels)
    if counts.min() == 1:
        name = train.classes[counts.argmin()]
        raise data_error(where, f"class {name!r} has a single image, none to hold out: add more, or give --test")
    out = _stratified(train.labels, lambda count: max(1, round(count / 5)))
    note = f"test images: a stratified holdout of {out.sum()} of the {len(out)} images of {train.name}"
    return _subset(train, ~out), _subset(train, out), note


def limit_per_class(train: Images, per_class: int) -> tuple[Images, list[str]]:
    """`per_class` images of each class, or as many as it has, and notes."""
    counts = np.bincount(train.labels)
    notes = []
    if counts.min() < per_class:
        notes.append(
            f"{(counts < per_class).sum()} of {len(counts)} classes have fewer than {per_class} training "
            f"images (class {train.classes[counts.argmin()]!r}: {counts.min()}): taking what is there"
        )
    return _subset(train, _stratified(train.labels, lambda count: min(count, per_class))), notes


def _numbers(num_classes: int) -> tuple[str, ...]:
    """The names of classes that have none."""
    return tuple(str(number) for number in range(num_classes))


def _first_missing(present: np.ndarray, num_classes: int) -> int | None:
    """The smallest of 0..num_classes-1 that is not in `present`, int64 [≤ num_classes] ascending."""
    if len(present) == num_classes:
        return None
    gaps = np.flatnonzero(present != np.arange(len(present)))
    return int(gaps[0]) if gaps.size else len(present)


def _stratified(labels: np.ndarray, quota: Callable[[int], int]) -> np.ndarray:
    """Of each class of n images, quota(n) at random but always the same ones, whatever seed a run has.

    Returns:
        bool [N]: which.
    """
    rng = np.random.default_rng(0)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen[rng.permutation(members)[: quota(len(members))]] = True
    return chosen


def _subset(images: Images, chosen: np.ndarray) -> Images:
    files = images.files and tuple(np.array(images.files, dtype=object)[chosen])
    return replace(images, images=images.images[chosen], labels=images.labels[chosen], files=files)


def count_shared(train: np.ndarray, test: np.ndarray) -> int:
    """How many of the test images are among the training images, byte for byte; both uint8 [N, H, W, 3]."""
    known = set(_fingerprints(train))
    return sum(fingerprint in known for fingerprint in _fingerprints(test))


def _fingerprints(images: np.ndarray) -> list[bytes]:
    """A digest of each image's bytes."""
    return [hashlib.blake2b(image.data, digest_size=16).digest() for image in images]
