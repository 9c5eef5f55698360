"""From labelled images to training and test images: splits, classes checked, holdout, limit per class, duplicates."""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from speedtrain.data.annotators import NO_LABEL
from speedtrain.data.image_files import Reading
from speedtrain.data.mapped import join
from speedtrain.data.source import Images, Source, class_numbers, data_error

TRAIN = "train"
TEST_SPLITS = ("test", "val", "valid", "validation")
"""Names of splits other than `TRAIN`. The first that is there is for testing."""
ALSO_CALLED = {"training": TRAIN, "testing": "test"}
"""Other names of splits, in folders and tables."""

NO_VALIDATION = "--with-validation, but it has no validation images beside its test images"

Sources = tuple[Source, Source | None]
"""Training images, and test images where there are any."""


def split_called(name: str) -> str | None:
    """The split that a folder, or a cell of a table, names in any case; None where it names none."""
    split = ALSO_CALLED.get(name.lower(), name.lower())
    return split if split in (TRAIN, *TEST_SPLITS) else None


@dataclass(frozen=True)
class SplitChoice:
    """Which splits of a source are used.

    Attributes:
        own_test: whether its test images are; not where others are named.
        with_validation: whether its validation images join the training images.
    """

    own_test: bool = True
    with_validation: bool = False


def read_chosen(
    there: Mapping[str, str],
    name: str,
    where: str,
    read: Callable[[str, Reading], Source],
    reading: Reading,
    choice: SplitChoice,
) -> Sources:
    """Reads the splits of a source that are used, and says which are not.

    Args:
        there: split → how a message calls it; `TRAIN` is among them.
        name, where: as in `Source`.
        read: reads a split.
        reading: how.
        choice: which are used.

    Raises:
        UserError: there are no validation images to join, or a split cannot be read.
    """
    others = [split for split in TEST_SPLITS if split in there]
    tested = others.pop(0) if others and choice.own_test else None
    joined = [split for split in others if split != "test"] if choice.with_validation else []
    if choice.with_validation and not joined:
        raise data_error(where, f"{NO_VALIDATION}: leave it out")
    train = read(TRAIN, reading)
    if joined:
        train = _below(train, there[TRAIN])
    notes = []
    for split in joined:
        more = read(split, reading.like(train))
        train = _joined(train, _below(more, there[split]))
        notes.append(f"the {len(more.images)} images of {there[split]} are trained on as well")
    test = None
    if tested is not None:
        test = read(tested, reading.like(train))
        if others or there[tested] not in ("test/", "test"):
            notes.append(f"testing on {there[tested]}")
    notes += [f"{there[split]} is not used" for split in others if split not in joined]
    said = [f"{name}: {'; '.join(notes)}"] if notes else []
    return replace(train, notes=(*said, *train.notes)), test


def _below(source: Source, folder: str) -> Source:
    """The source with its files named from the folder above, where they are named from a split's own."""
    if source.files is None or not folder.endswith("/"):
        return source
    return replace(source, files=tuple(f"{folder}{file}" for file in source.files))


def _joined(first: Source, second: Source) -> Source:
    """The images of two splits of a source in one."""
    classes = first.classes
    if first.by_name and first.classes and second.classes:
        classes = class_numbers([*first.classes, *second.classes])[1]
        first, second = (_renumbered(source, classes) for source in (first, second))
    if _annotators(first) != _annotators(second):
        counts = f"{_annotators(first)} and {_annotators(second)}"
        raise data_error(first.where, f"the splits to join have {counts} labels an image: give both alike")

    def both(one: tuple[str, ...] | None, other: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if one is None or other is None else one + other

    return replace(
        first,
        images=join(first.images, second.images),
        labels=np.concatenate([first.labels, second.labels]),
        votes=None if first.votes is None or second.votes is None else np.concatenate([first.votes, second.votes]),
        classes=classes,
        notes=(*first.notes, *second.notes),
        native=first.native and second.native,
        files=both(first.files, second.files),
        groups=both(first.groups, second.groups),
        problems={**first.problems, **second.problems},
    )


def _renumbered(source: Source, classes: tuple[str, ...]) -> Source:
    """The source with its classes, which it names, numbered as in `classes`."""
    numbers = np.array([*map(classes.index, source.classes or ()), NO_LABEL])  # the last is for -1
    votes = None if source.votes is None else numbers[source.votes]
    return replace(source, labels=numbers[source.labels], votes=votes, classes=classes)


def _annotators(source: Source) -> int:
    return 1 if source.votes is None else source.votes.shape[1]


def training_set(source: Source) -> Images:
    """The whole source as training images.

    Raises:
        UserError: one class only, or a class without images.
    """
    present = np.unique(source.labels)
    if len(present) == 1:
        raise data_error(source.where, "all images are of one class: give at least two classes")
    # Before naming them all: labels from a file may be as large as 2⁶³.
    largest = int(present[-1]) if source.votes is None else int(source.votes.max())
    num_classes = len(source.classes) if source.classes else largest + 1
    missing = _first_missing(present, num_classes)
    if missing is not None:
        name = source.classes[missing] if source.classes else str(missing)
        if source.votes is not None:
            raise data_error(source.where, f"class {name!r} is the majority's label of no image: mend or remove it")
        advice = "remove it" if source.by_name else "number without gaps from 0"
        raise data_error(source.where, f"class {name!r} has no training image: add some, or {advice}")
    classes = source.classes or _numbers(num_classes)
    return _images(source, classes)


def notes_on_names(train: Images) -> list[str]:
    """What is to be said of classes whose names differ only in upper and lower case, or in how a number is written."""
    first: dict[str, str] = {}
    notes = []
    for name in train.classes:
        alike = name.strip().casefold()
        with suppress(ValueError):
            alike = repr(float(alike))
        if (other := first.setdefault(alike, name)) != name:
            notes.append(f"{train.name}: {other!r} and {name!r} are taken for two classes")
    return notes


def test_set(source: Source, train: Images, named: bool) -> tuple[Images, list[str]]:
    """The whole source as test images for `train`, and notes.

    Args:
        source: the test images as read.
        train: the training images.
        named: whether their source names the classes of `train`, or only numbers them.

    Raises:
        UserError: the two disagree on the classes.
    """
    notes = list(source.notes)
    names = source.classes or train.classes
    if source.by_name and set(names) <= set(train.classes):
        source = _renumbered(source, train.classes)
    elif named and names != train.classes:
        if unknown := sorted(set(names) - set(train.classes)):
            what = f"{unknown[0]!r} is no class of the training images"
            raise data_error(source.where, f"{what}: add training images of it, or leave it out")
        absent = sorted(set(train.classes) - set(names))
        what = f"{absent[0]!r} is missing" if absent else "they are in another order"
        raise data_error(source.where, f"not the classes of the training images ({what}): name and number both alike")
    elif named == (source.classes is None) and names != _numbers(len(names)):
        notes.append(
            f"only one of {train.name} and {source.name} names its classes: "
            f"0 is taken for {names[0]!r} in both, and so on"
        )
    labels, num_classes = source.labels, len(train.classes)
    largest = labels.max() if source.votes is None else source.votes.max()
    if largest >= num_classes:
        raise data_error(
            source.where,
            f"test label {largest}, but the training images have {num_classes} classes from 0: number both alike",
        )
    if missing := sorted(set(range(num_classes)) - set(np.unique(labels).tolist())):
        which = f"{len(missing)} of {num_classes} classes have no test image, {train.classes[missing[0]]!r} for one"
        notes.append(f"{source.name}: {which}: the score is of the other classes alone")
    return _images(source, train.classes), notes


def _images(source: Source, classes: tuple[str, ...]) -> Images:
    groups = None if source.groups is None else np.array(source.groups, dtype=object)
    return Images(
        source.name,
        source.images,
        source.labels,
        classes,
        source.native,
        source.files,
        source.pixel_max,
        groups,
        source.votes,
    )


def hold_out(train: Images, where: str, advice: str = "give --test") -> tuple[Images, Images, list[str]]:
    """What remains of the training images, a fifth of each class held out for testing, and notes.

    Images of one group stay together, so that a class may lose more or less than a fifth. The image of a class that
    has a single one stays in training, and so does a group without which a class would have none.

    Args:
        train: the training images.
        where: how an error calls them.
        advice: what to do where nothing can be held out. Default: `give --test`.

    Raises:
        UserError: nothing can be held out.
    """
    counts = np.bincount(train.labels)
    if counts.max() == 1:
        raise data_error(where, f"each class has a single image, none to hold out: add more, or {advice}")
    if train.groups is None:
        out = _stratified(train.labels, lambda count: 0 if count == 1 else _fifth(count))
        whole = ""
    else:
        out = _whole_groups(train.labels, train.groups)
        whole = f", {len(set(train.groups[out]))} of {len(set(train.groups))} groups"
        if not out.any():
            raise data_error(where, f"no group can be held out without a class losing all its images: {advice}")
    notes = [f"test images: a stratified holdout of {out.sum()} of the {len(out)} images of {train.name}{whole}"]
    if single := int((counts == 1).sum()):
        which = f"{single} of {len(counts)} classes have a single image, {train.classes[counts.argmin()]!r} for one"
        notes.append(f"{train.name}: {which}: it is trained on, and nothing tests the class")
    return train.subset(~out), train.subset(out), notes


def _fifth(count: int) -> int:
    return max(1, round(count / 5))


def _whole_groups(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Groups that together hold about a fifth of each class; always the same ones.

    Large groups come first, equals in random order; each is taken if that brings the classes nearer to their fifth.

    Returns:
        bool [N]: which images are in them.
    """
    counts = np.bincount(labels)
    wanted = np.array([_fifth(count) if count else 0 for count in counts])
    _, group_of = np.unique(groups.astype(str), return_inverse=True)
    members = np.zeros((group_of.max() + 1, len(counts)), dtype=np.int64)
    np.add.at(members, (group_of, labels), 1)
    shuffled = np.random.default_rng(0).permutation(len(members))
    held = np.zeros_like(counts)
    taken: list[int] = []
    for group in shuffled[np.argsort(-members[shuffled].sum(1), kind="stable")]:
        more = held + members[group]
        nearer = np.abs(wanted - more).sum() < np.abs(wanted - held).sum()
        if nearer and (more < counts)[counts > 0].all():
            held, taken = more, [*taken, group]
    return np.isin(group_of, taken)


def limit_per_class(train: Images, per_class: int) -> tuple[Images, list[str]]:
    """`per_class` images of each class, or as many as it has, and notes."""
    counts = np.bincount(train.labels)
    notes = []
    if counts.min() < per_class:
        notes.append(
            f"{(counts < per_class).sum()} of {len(counts)} classes have fewer than {per_class} training "
            f"images (class {train.classes[counts.argmin()]!r}: {counts.min()}): taking what is there"
        )
    return train.subset(_stratified(train.labels, lambda count: min(count, per_class))), notes


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


def groups_in_both(train: Images, test: Images) -> int:
    """How many groups have images in both."""
    if train.groups is None or test.groups is None:
        return 0
    return len(set(train.groups) & set(test.groups))


def count_shared(train: np.ndarray, test: np.ndarray) -> int:
    """How many of the test images are among the training images, byte for byte; both uint8 [N, H, W, 3]."""
    known = set(fingerprints(train))
    return sum(fingerprint in known for fingerprint in fingerprints(test))


def fingerprints(images: np.ndarray) -> list[bytes]:
    """A digest of each image's bytes, of images uint8 [N, H, W, 3]; 16 bytes each."""
    return [hashlib.blake2b(image.data, digest_size=16).digest() for image in images]
