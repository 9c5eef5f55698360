"""What a person names → training and test images, before the clock starts.

Whatever the source (a data set with a name, an .npz, a folder of class folders, a table of files, arrays, a data set in
Python), the result is uint8 images [N, side, side, 3] with int64 labels, or a UserError of one line. Images of another
size are cut to their centred square, padded or squashed, and resampled (bicubic, antialiased when shrinking).

No torch in here: most bad input is refused before torch is imported. torchvision and scikit-learn take seconds to
import, and are imported only where they are needed.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from speedtrain.checked_types import nearest
from speedtrain.config import AUTO, CIFAR10, DATA_SETS, IN_MEMORY, TORCHVISION
from speedtrain.data.annotators import DEFAULT, WAYS, labels_for_training, measure_agreement
from speedtrain.data.arrays import check_arrays, read_arrays, standard_images
from speedtrain.data.builtin import read_builtin
from speedtrain.data.folder import (
    LABELLED,
    TO_PREDICT,
    TO_TRAIN_ON,
    files_to_predict,
    find_splits,
    image_files,
    is_folder,
    listing,
    read_folder,
    refuse_outer_folder,
    refuse_splits,
)
from speedtrain.data.image_files import Progress, Reading, read_photographs, unreadable_images
from speedtrain.data.near_copies import notes_on_near_copies
from speedtrain.data.npz import NO_IMAGES, is_npz, read_npz, sources_from_npz
from speedtrain.data.photograph import FITS, SIDE, Fit, is_image_file
from speedtrain.data.python_datasets import is_indexable, read_indexable
from speedtrain.data.source import Arrays, Data, data_error, uneven
from speedtrain.data.splits import (
    NO_VALIDATION,
    TRAIN,
    Sources,
    SplitChoice,
    count_shared,
    groups_in_both,
    hold_out,
    limit_per_class,
    notes_on_names,
    read_chosen,
    test_set,
    training_set,
)
from speedtrain.data.table import ROLES, SUFFIXES, is_table, read_table
from speedtrain.data.torchvision_sets import read_torchvision
from speedtrain.errors import UserError


def load_data(
    data: str | Path | Arrays | Any = "auto",
    test: str | Path | Arrays | Any | None = None,
    *,
    per_class: int | Literal["all"] | None = None,
    data_root: str | Path | None = None,
    side: int | None = SIDE,
    fit: Fit = "crop",
    pixel_max: int | None = None,
    columns: Mapping[str, str] | None = None,
    with_validation: bool = False,
    skip_unreadable: bool = False,
    core_seconds: float | None = None,
    progress: Progress | None = None,
    labels: str | int | None = None,
    seed: int = 0,
    holdout: bool = True,
) -> Data:
    """Reads and checks training and test images.

    Without `test`, the test images are the source's own: CIFAR-10's, or the `test/` of a folder that holds
    `train/` and `test/`. Where a source has none, a stratified fifth is held out, always the same one.

    Args:
        data: "auto" (CIFAR-10, or the digits where CIFAR-10 cannot be had), "cifar10", "digits", "torchvision:NAME",
            the path of an .npz, of a folder with a sub-folder per class, or of a CSV file; or (images, labels), a data
            frame, or any data set with a length and items (image, label).
        test: the same forms; None takes the source's own, or a holdout.
        per_class: training images per class, drawn at random but always the same; None means all, but 500
            for CIFAR-10.
        data_root: folder to look for CIFAR-10 or a data set of torchvision in first, before $SPEEDTRAIN_DATA and
            ./data, and to download it to.
        side: pixels a side of the images; None means the natural side of the training images: the largest of
            `photograph.SIDES` that is not above the median of their shorter sides, as far as `core_seconds` allow.
            Default: 32.
        fit: what becomes of an image that is not square: crop (its centred square), pad (with its mean colour), or
            squash. Default: crop.
        pixel_max: white in arrays of integers wider than uint8; None means the largest integer of their depth (8, 10,
            12, 14 or 16 bits), by the largest value among the training images.
        columns: role (image, label, split, group) → column of a CSV file or data frame. Default: found by name.
        with_validation: whether the source's validation images join the training images. Default: no.
        skip_unreadable: whether image files that cannot be read are left out, instead of an error. Default: no.
        core_seconds: seconds of training times cores; too few keep images at 32 pixels where `side` is None. Default:
            no limit.
        progress: is called with the number of images read and their total. Default: none.
        labels: what the labels of several annotators become for training: separate, soft, majority, em, first, or the
            number of an annotator; see `annotators.labels_for_training`. Default: separate. Test images are scored by
            the majority.
        seed: of the ties of a majority. Default: 0.
        holdout: whether images are held out where the source has no test images. If not, `Data.test` is the training
            images, and `labels` is left for later. Default: yes.

    Raises:
        UserError: the images cannot be found, read or used.
    """
    if per_class not in (None, "all") and not (isinstance(per_class, int | np.integer) and per_class >= 1):
        raise data_error("--per-class", f"{per_class!r} given: give a whole number from 1, or all")
    number = isinstance(labels, int | np.integer) and not isinstance(labels, bool)
    if not (labels is None or labels in WAYS or number):
        raise data_error("--labels", f"{labels!r} given: give {', '.join(WAYS)}, or the number of an annotator")
    for role in columns or {}:
        if role not in ROLES:
            raise data_error("--columns", f"no role {role!r}{nearest(role, ROLES)}")
    if isinstance(data, str) and data == AUTO and test is not None:
        data = CIFAR10  # test images of one's own belong to one data set: do not fall back to another

    reading = replace(
        _reading(side, fit, skip_unreadable, progress, pixel_max),
        core_seconds=core_seconds,
        from_annotators=labels is not None,
    )
    choice = SplitChoice(own_test=test is None, with_validation=with_validation)
    if isinstance(data, str | Path) and data not in DATA_SETS and os.path.isdir(data):
        refuse_outer_folder(Path(data))  # test images may be of one class
    source, test_source = _open(data, data_root, reading, choice, columns or {})
    if test is not None:
        reading = replace(reading.like(source), from_annotators=reading.from_annotators or source.votes is not None)
        given, own_test = _open(test, data_root, reading, SplitChoice(), columns or {})
        test_source = own_test or given

    train = training_set(source)
    notes = [*source.notes, *notes_on_names(train)]
    several = train.votes is not None or (test_source is not None and test_source.votes is not None)
    if labels is not None and not several:
        raise data_error("--labels", f"{train.name} has one label an image: leave it out")
    if not holdout:
        return Data(train, train, False, tuple(notes), source.root, tuple(source.problems), labels=labels)
    if test_source is None:
        train, held, holdout_notes = hold_out(train, source.where)
        notes += holdout_notes
        if uneven(np.bincount(train.labels)):
            notes.append(f"{train.name}: classes of unequal size, in the holdout too: look at the balanced accuracy")
    else:
        held, test_notes = test_set(test_source, train, named=source.classes is not None)
        notes += test_notes
    default_per_class, is_holdout = source.default_per_class, test_source is None
    root = source.root or (test_source.root if test_source is not None else None)
    skipped = (*source.problems, *(test_source.problems if test_source is not None else ()))
    del source, test_source  # until here a holdout takes the memory of all images twice

    annotators = None
    if train.votes is not None:
        annotators = measure_agreement(train.votes, len(train.classes), train.labels)
        labels = DEFAULT if labels is None else labels
        train, left_out = labels_for_training(train, labels, seed)
        notes += [f"{train.name}: {annotators.in_words()} (--labels {labels})", *left_out]
    if per_class is None and default_per_class is not None:
        per_class = default_per_class
        notes.append(f"training on {per_class} images per class, as in the competition (--per-class all takes all)")
    if per_class not in (None, "all"):
        train, limit_notes = limit_per_class(train, int(per_class))
        notes += limit_notes

    if held.votes is not None:
        notes.append(f"{held.name}: the test images are scored by the majority of their annotators, which may be wrong")

    if both := groups_in_both(train, held):
        notes.append(
            f"{both} groups have images on both sides, in training and in test: "
            "the accuracy will look better than it is"
        )
    shared = count_shared(train.images, held.images)
    if shared:
        notes.append(
            f"{shared} of the {len(held.labels)} test images are also among the training images: "
            "the accuracy will look better than it is"
        )
    # built-in sets are what they are; an image in both is told of already
    if not shared and not (isinstance(data, str) and data in DATA_SETS):
        hint = "; a table's group column keeps such images together" if is_holdout and train.groups is None else ""
        notes += [f"{note}{hint}" for note in notes_on_near_copies(train, held)]
    return Data(train, held, is_holdout, tuple(dict.fromkeys(notes)), root, skipped, annotators, labels)


def _reading(
    side: int | None, fit: Fit, skip_unreadable: bool, progress: Progress | None, pixel_max: int | None
) -> Reading:
    """How files are read, checked."""
    for name, number in (("side", side), ("pixel_max", pixel_max)):
        if number is not None and not (isinstance(number, int | np.integer) and number >= 1):
            raise data_error(name, f"{number!r} given: give a whole number from 1, or None")
    if fit not in FITS:
        raise data_error("fit", f"{fit!r} given: give {', '.join(FITS)}")
    return Reading(side, fit, skip_unreadable, progress, pixel_max)


@dataclass(frozen=True)
class ImagesToPredict:
    """Images as they are named to be predicted, with labels or without.

    Attributes:
        images: uint8 [N, side, side, 3].
        labels: int64 [N] or None.
        classes: the names of the classes or None.
        files: as in `Images`, of the images that could be read.
        problems: file that cannot be read, named as in `files` → why.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    files: tuple[str, ...] | None = None
    problems: Mapping[str, str] = field(default_factory=dict)


def load_images(
    path: str | Path,
    *,
    need_labels: bool = False,
    side: int | None = SIDE,
    fit: Fit = "crop",
    pixel_max: int | None = None,
    core_seconds: float | None = None,
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...] | None]:
    """Reads images to predict: an .npz, a folder of class folders, a folder of images, or one image file.

    Images of a folder are ordered by the name of their class folder, if any, then by their own. A folder that holds
    images beside its sub-folders has no labels.

    Args:
        path: where they are.
        need_labels: whether images without labels are refused.
        side, fit, pixel_max, core_seconds: as for `load_data`.

    Returns:
        images uint8 [N, side, side, 3]; labels int64 [N] or None; the names of the classes or None.

    Raises:
        UserError: the images cannot be read, or have no labels although `need_labels`.
    """
    read = read_images(
        Path(path), need_labels=need_labels, side=side, fit=fit, pixel_max=pixel_max, core_seconds=core_seconds
    )
    if read.problems:
        folder = Path(path) if Path(path).is_dir() else Path(path).parent
        raise unreadable_images(
            {folder / file: why for file, why in read.problems.items()}, "mend or remove what is damaged"
        )
    return read.images, read.labels, read.classes


def read_images(
    path: Path,
    *,
    need_labels: bool = False,
    side: int | None = SIDE,
    fit: Fit = "crop",
    pixel_max: int | None = None,
    core_seconds: float | None = None,
) -> ImagesToPredict:
    """As `load_images`, but goes on without image files that cannot be read, and tells which.

    Raises:
        UserError: as for `load_images`, or not one image file can be read.
    """
    reading = replace(_reading(side, fit, True, None, pixel_max), core_seconds=core_seconds)
    folder, give = path, LABELLED if need_labels else TO_PREDICT
    if is_folder(path, give):
        class_folders, files = listing(path)
        if class_folders and (need_labels or not image_files(files)):
            refuse_splits(path)
            source = read_folder(path, path.name, reading)
            return ImagesToPredict(source.images, source.labels, source.classes, source.files, source.problems)
        paths = files_to_predict(path)
    elif is_image_file(path):
        folder, paths = path.parent, [path]
    elif not is_npz(path):
        raise data_error(path, f"{NO_IMAGES}: {give}")
    else:
        arrays = read_npz(path, required=("images", "labels") if need_labels else ("images",))
        if "labels" not in arrays:
            return ImagesToPredict(standard_images(arrays["images"], str(path), reading).images)
        source = check_arrays(path.name, str(path), reading, **arrays)
        return ImagesToPredict(source.images, source.labels, source.classes)
    if need_labels:
        raise data_error(path, f"no labels: {LABELLED}")
    read = read_photographs(paths, reading)
    if not len(read.images):
        raise unreadable_images(read.problems, "mend or remove what is damaged")
    names = tuple(file.relative_to(folder).as_posix() for file in paths if file not in read.problems)
    problems = {file.relative_to(folder).as_posix(): why for file, why in read.problems.items()}
    return ImagesToPredict(read.images, files=names, problems=problems)


def _open(
    data: Any, data_root: str | Path | None, reading: Reading, choice: SplitChoice, columns: Mapping[str, str]
) -> Sources:
    """The images that `data` names, and its own test images where it has any and they are wanted."""
    if isinstance(data, str | Path):
        return _open_named(data, data_root, reading, choice, columns)
    if is_table(data):
        return read_table(data, IN_MEMORY, reading, choice, columns)
    if isinstance(data, tuple):
        source = read_arrays(data, reading)
    elif is_indexable(data) and not isinstance(data, np.ndarray):
        source = read_indexable(data, IN_MEMORY, reading)
    else:
        what = "a name, a path, a tuple (images, labels), a data frame, or a data set with a length and items"
        raise UserError(f"data is a {type(data).__name__}: give {what}")
    return read_chosen({TRAIN: ""}, IN_MEMORY, IN_MEMORY, lambda split, reading: source, reading, choice)


def _open_named(
    data: str | Path, data_root: str | Path | None, reading: Reading, choice: SplitChoice, columns: Mapping[str, str]
) -> Sources:
    """As `_open`, of a name or a path."""
    if data in DATA_SETS:
        if choice.with_validation:
            raise data_error(data, f"{NO_VALIDATION}: leave it out")
        return read_builtin(str(data), data_root, reading)
    if str(data).startswith(TORCHVISION):
        return read_torchvision(str(data), data_root, reading, choice)
    path = Path(data)
    name = os.path.basename(os.path.abspath(path))  # of "." too
    if not is_folder(path, TO_TRAIN_ON):
        if path.suffix.lower() in SUFFIXES:
            return read_table(path, name, reading, choice, columns)
        if is_npz(path):
            return sources_from_npz(path, name, reading, choice)
        if is_image_file(path):
            what = "a single image file cannot be trained on, nor tested on"
            raise data_error(path, f"{what}: give a folder with a sub-folder per class")
        raise data_error(path, f"neither an .npz nor a table ({' or '.join(SUFFIXES)}): {TO_TRAIN_ON}")
    folders = find_splits(path) or {TRAIN: path}
    there = {split: f"{folder.name}/" for split, folder in folders.items()}
    return read_chosen(
        there, name, str(path), lambda split, reading: read_folder(folders[split], name, reading), reading, choice
    )
