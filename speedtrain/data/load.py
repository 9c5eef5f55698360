"""What a person names → training and test images, before the clock starts.

Whatever the source (CIFAR-10, scikit-learn's digits, an .npz, a folder of class folders, two arrays), the result is
uint8 images [N, side, side, 3] with int64 labels, or a UserError of one line. Images of another size are cut to their
centred square, padded or squashed, and resampled (bicubic, antialiased when shrinking).

No torch in here: most bad input is refused before torch is imported. torchvision and scikit-learn take seconds to
import, and are imported only where they are needed.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from speedtrain.config import AUTO, CIFAR10, DATA_SETS
from speedtrain.data.arrays import check_arrays, read_arrays, standard_images
from speedtrain.data.builtin import read_builtin
from speedtrain.data.folder import find_splits, image_files, is_folder, labelled_files, listing, read_folder
from speedtrain.data.npz import read_npz, sources_from_npz
from speedtrain.data.photograph import IMAGE_SUFFIXES, SIDE, Form, read_photographs
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
    fit: str = "crop",
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
        fit: what becomes of an image that is not square: crop (its centred square), pad (with grey), or squash.
            Default: crop.

    Raises:
        UserError: the images cannot be found, read or used.
    """
    if per_class not in (None, "all") and not (isinstance(per_class, int | np.integer) and per_class >= 1):
        raise data_error("--per-class", f"{per_class!r} given: give a whole number from 1, or all")
    if isinstance(data, str) and data == AUTO and test is not None:
        data = CIFAR10  # test images of one's own belong to one data set: do not fall back to another

    source, test_source = _open(data, data_root, Form(side, fit))
    if test is not None:
        given, own_test = _open(test, data_root, Form(source.images.shape[1], fit))
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
    return Data(train, held, test_source is None, tuple(dict.fromkeys(notes)), root)


def load_images(
    path: str | Path, *, need_labels: bool = False, side: int | None = SIDE, fit: str = "crop"
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...] | None]:
    """Reads images to predict: an .npz, a folder of class folders, a folder of images, or one image file.

    Images of a folder are ordered by the name of their class folder, if any, then by their own.

    Args:
        path: of the images.
        need_labels: whether images without labels are an error. Default: no.
        side, fit: as for `load_data`.

    Returns:
        images uint8 [N, side, side, 3]; labels int64 [N] or None; the names of the classes or None.

    Raises:
        UserError: the images cannot be read, or have no labels although `need_labels`.
    """
    path, form = Path(path), Form(side, fit)
    if is_folder(path):
        if splits := find_splits(path):
            raise data_error(path, f"holds {splits[0].name}/ and {splits[1].name}/: name one of the two")
        class_folders, files = listing(path)
        if class_folders:
            source = read_folder(path, path.name, form)
            return source.images, source.labels, source.classes
        paths = image_files(files)
        if not paths:
            raise data_error(path, f"no images in this folder (looked for {' '.join(IMAGE_SUFFIXES)})")
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        paths = [path]
    else:
        arrays = read_npz(path, required=("images", "labels") if need_labels else ("images",))
        if "labels" not in arrays:
            return standard_images(arrays["images"], str(path), form)[0], None, None
        source = check_arrays(path.name, str(path), form, **arrays)
        return source.images, source.labels, source.classes
    if need_labels:
        raise data_error(path, "no labels: give an .npz with labels, or a folder with a sub-folder per class")
    return read_photographs(paths, form)[0], None, None


def image_names(path: str | Path) -> list[str] | None:
    """The names of the image files that `load_images` reads, in its order and relative to the folder; None where
    the images come from an .npz."""
    path = Path(path)
    if path.suffix.lower() in IMAGE_SUFFIXES and not is_folder(path):
        return [path.name]
    if not is_folder(path):
        return None
    class_folders, files = listing(path)
    files = labelled_files(path) if class_folders else image_files(files)
    return [file.relative_to(path).as_posix() for file in files]


def _open(data: str | Path | Arrays, data_root: str | Path | None, form: Form) -> tuple[Source, Source | None]:
    """The images that `data` names, and its own test images where it has any."""
    if isinstance(data, tuple):
        return read_arrays(data, form), None
    if not isinstance(data, str | Path):
        raise UserError(f"data is a {type(data).__name__}: give a name, a path or a tuple (images, labels)")
    if data in DATA_SETS:
        return read_builtin(str(data), data_root, form)
    path = Path(data)
    name = os.path.basename(os.path.abspath(path))  # of "." too
    if not is_folder(path):
        return sources_from_npz(path, name, form)
    if splits := find_splits(path):
        train_folder, test_folder, unused = splits
        train = read_folder(train_folder, name, form)
        test = read_folder(test_folder, name, replace(form, side=train.images.shape[1]))
        note = f"{name}: testing on {test_folder.name}/" + "".join(f"; {split.name}/ is not used" for split in unused)
        return train, replace(test, notes=(note, *test.notes)) if unused or test_folder.name != "test" else test
    return read_folder(path, name, form), None
