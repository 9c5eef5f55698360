"""What a person names → training and test images, before the clock starts.

Whatever the source (CIFAR-10, scikit-learn's digits, an .npz, a folder of class folders, two arrays), the result is
uint8 images [N, side, side, 3] with int64 labels, or a UserError of one line. Images of another size are cut to their
centred square, padded or squashed, and resampled (bicubic, antialiased when shrinking).

No torch in here: most bad input is refused before torch is imported. torchvision and scikit-learn take seconds to
import, and are imported only where they are needed.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from speedtrain.config import AUTO, CIFAR10, DATA_SETS
from speedtrain.data.arrays import check_arrays, read_arrays, standard_images
from speedtrain.data.builtin import read_builtin
from speedtrain.data.folder import find_splits, image_files, is_folder, listing, read_folder
from speedtrain.data.npz import read_npz, sources_from_npz
from speedtrain.data.photograph import FITS, IMAGE_SUFFIXES, SIDE, Fit, is_image_file
from speedtrain.data.photographs import Progress, Reading, read_photographs, unreadable_images
from speedtrain.data.source import Arrays, Data, Source, data_error
from speedtrain.data.splits import count_shared, hold_out, limit_per_class, test_set, training_set
from speedtrain.errors import UserError


def load_data(
    data: str | Path | Arrays = "auto",
    test: str | Path | Arrays | None = None,
    *,
    per_class: int | Literal["all"] | None = None,
    data_root: str | Path | None = None,
    side: int | None = SIDE,
    fit: Fit = "crop",
    skip_unreadable: bool = False,
    progress: Progress | None = None,
) -> Data:
    """Reads and checks training and test images.

    Without `test`, the test images are the source's own: CIFAR-10's, or the `test/` of a folder that holds
    `train/` and `test/`. Where a source has none, a stratified fifth is held out, always the same one.

    Args:
        data: "auto" (CIFAR-10, or the digits where CIFAR-10 cannot be had), "cifar10", "digits", the path of an
            .npz or of a folder with a sub-folder per class, or (images, labels).
        test: the same forms; None takes the source's own, or a holdout.
        per_class: training images per class, drawn at random but always the same; None means all, but 500
            for CIFAR-10.
        data_root: folder to look for CIFAR-10 in first, before $SPEEDTRAIN_DATA and ./data, and to download it to.
        side: pixels a side of the images; None means the natural side of the training images: the largest of
            `photograph.SIDES` that is not above the median of their shorter sides. Default: 32.
        fit: what becomes of an image that is not square: crop (its centred square), pad (with its mean colour), or
            squash. Default: crop.
        skip_unreadable: whether image files that cannot be read are left out, instead of an error. Default: no.
        progress: is called with the number of image files decoded and their total. Default: none.

    Raises:
        UserError: the images cannot be found, read or used.
    """
    if per_class not in (None, "all") and not (isinstance(per_class, int | np.integer) and per_class >= 1):
        raise data_error("--per-class", f"{per_class!r} given: give a whole number from 1, or all")
    if isinstance(data, str) and data == AUTO and test is not None:
        data = CIFAR10  # test images of one's own belong to one data set: do not fall back to another

    reading = _reading(side, fit, skip_unreadable, progress)
    source, test_source = _open(data, data_root, reading)
    if test is not None:
        given, own_test = _open(test, data_root, replace(reading, side=source.images.shape[1]))
        test_source = own_test or given

    train = training_set(source)
    notes = list(source.notes)
    if test_source is None:
        train, held, holdout_notes = hold_out(train, source.where)
        notes += holdout_notes
    else:
        held, test_notes = test_set(test_source, train, named=source.classes is not None)
        notes += test_notes

    if per_class is None and source.default_per_class is not None:
        per_class = source.default_per_class
        notes.append(f"training on {per_class} images per class, as in the competition (--per-class all takes all)")
    if per_class not in (None, "all"):
        train, limit_notes = limit_per_class(train, int(per_class))
        notes += limit_notes

    shared = count_shared(train.images, held.images)
    if shared:
        notes.append(
            f"{shared} of the {len(held.labels)} test images are also among the training images: "
            "the accuracy will look better than it is"
        )
    root = source.root or (test_source.root if test_source is not None else None)
    skipped = (*source.problems, *(test_source.problems if test_source is not None else ()))
    return Data(train, held, test_source is None, tuple(dict.fromkeys(notes)), root, skipped)


def _reading(side: int | None, fit: Fit, skip_unreadable: bool = False, progress: Progress | None = None) -> Reading:
    """How files are read, checked."""
    if side is not None and not (isinstance(side, int | np.integer) and side >= 1):
        raise data_error("side", f"{side!r} given: give a whole number from 1, or None")
    if fit not in FITS:
        raise data_error("fit", f"{fit!r} given: give {', '.join(FITS)}")
    return Reading(side, fit, skip_unreadable, progress)


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
    path: str | Path, *, need_labels: bool = False, side: int | None = SIDE, fit: Fit = "crop"
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...] | None]:
    """Reads images to predict: an .npz, a folder of class folders, a folder of images, or one image file.

    Images of a folder are ordered by the name of their class folder, if any, then by their own.

    Args:
        path: where they are.
        need_labels: whether images without labels are refused.
        side, fit: as for `load_data`.

    Returns:
        images uint8 [N, side, side, 3]; labels int64 [N] or None; the names of the classes or None.

    Raises:
        UserError: the images cannot be read, or have no labels although `need_labels`.
    """
    read = read_images(Path(path), need_labels=need_labels, side=side, fit=fit)
    if read.problems:
        folder = Path(path) if is_folder(Path(path)) else Path(path).parent
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
    progress: Progress | None = None,
) -> ImagesToPredict:
    """As `load_images`, but goes on without image files that cannot be read, and tells which.

    Raises:
        UserError: as for `load_images`, or not one image file can be read.
    """
    reading = _reading(side, fit, skip_unreadable=True, progress=progress)
    folder = path
    if is_folder(path):
        if splits := find_splits(path):
            raise data_error(path, f"holds {splits[0].name}/ and {splits[1].name}/: name one of the two")
        class_folders, files = listing(path)
        if class_folders:
            source = read_folder(path, path.name, reading)
            return ImagesToPredict(source.images, source.labels, source.classes, source.files, source.problems)
        paths = image_files(files)
        if not paths:
            raise data_error(path, f"no images in this folder (looked for {' '.join(IMAGE_SUFFIXES)})")
    elif is_image_file(path):
        folder, paths = path.parent, [path]
    else:
        arrays = read_npz(path, required=("images", "labels") if need_labels else ("images",))
        if "labels" not in arrays:
            return ImagesToPredict(standard_images(arrays["images"], str(path), reading)[0])
        source = check_arrays(path.name, str(path), reading, **arrays)
        return ImagesToPredict(source.images, source.labels, source.classes)
    if need_labels:
        raise data_error(path, "no labels: give an .npz with labels, or a folder with a sub-folder per class")
    read = read_photographs(paths, reading)
    if not len(read.images):
        raise unreadable_images(read.problems, "mend or remove what is damaged")
    names = tuple(file.relative_to(folder).as_posix() for file in paths if file not in read.problems)
    problems = {file.relative_to(folder).as_posix(): why for file, why in read.problems.items()}
    return ImagesToPredict(read.images, files=names, problems=problems)


def _open(data: str | Path | Arrays, data_root: str | Path | None, reading: Reading) -> tuple[Source, Source | None]:
    """The images that `data` names, and its own test images where it has any."""
    if isinstance(data, tuple):
        return read_arrays(data, reading), None
    if not isinstance(data, str | Path):
        raise UserError(f"data is a {type(data).__name__}: give a name, a path or a tuple (images, labels)")
    if data in DATA_SETS:
        return read_builtin(str(data), data_root, reading)
    path = Path(data)
    name = os.path.basename(os.path.abspath(path))  # of "." too
    if not is_folder(path):
        return sources_from_npz(path, name, reading)
    if splits := find_splits(path):
        train_folder, test_folder, unused = splits
        train = read_folder(train_folder, name, reading)
        test = read_folder(test_folder, name, replace(reading, side=train.images.shape[1]))
        note = f"{name}: testing on {test_folder.name}/" + "".join(f"; {split.name}/ is not used" for split in unused)
        return train, replace(test, notes=(note, *test.notes)) if unused or test_folder.name != "test" else test
    return read_folder(path, name, reading), None
