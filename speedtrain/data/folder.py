"""Folders of images: one sub-folder per class, or none; with their own splits, or without."""

import os
import stat
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from speedtrain.data.image_files import Reading, labelled_photographs
from speedtrain.data.photograph import IMAGE_SUFFIXES, is_image_file
from speedtrain.data.source import (
    NOT_FROM_THE_WEB,
    Source,
    data_error,
    in_one_spelling,
    is_address,
    natural_order,
    unreadable,
)
from speedtrain.data.splits import TEST_SPLITS, TRAIN, split_called

LITTER = ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "lost+found", "$recycle.bin", "system volume information")
"""What systems leave in folders, in small letters."""

TO_TRAIN_ON = "give a folder, a CSV file, an .npz, torchvision:NAME, cifar10 or digits"
TO_PREDICT = "give an image file, a folder of images or an .npz"
LABELLED = "give an .npz with labels, or a folder with a sub-folder per class"
"""What to do where there are no images: to train on, to predict, to score."""


def is_folder(path: Path, give: str) -> bool:
    """Whether `path` is a folder, not a file.

    Args:
        path: where images should be.
        give: what to do where it is neither, for the error.

    Raises:
        UserError: it is neither, or cannot be reached.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        if is_address(path):
            raise data_error(path, NOT_FROM_THE_WEB) from None
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise data_error(path, f"no such file or folder: {give}") from None
        raise unreadable(path, error) from error
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise data_error(path, f"neither a file nor a folder: {give}")
    return stat.S_ISDIR(mode)


def listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder; hidden ones and litter are left out.

    Both are sorted by name, and numbers in names of folders as numbers: 2 comes before 10. Files are not, so that the
    images of earlier runs keep their order.

    Raises:
        UserError: it cannot be read, or a name in it is not UTF-8.
    """
    try:
        with os.scandir(folder) as entries:
            visible = [(Path(entry.path), entry.is_dir()) for entry in entries if not _is_litter(entry.name)]
    except OSError as error:
        raise unreadable(folder, error) from error
    for path, _ in visible:
        try:
            path.name.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(path.name).decode(errors="backslashreplace")
            raise data_error(folder, f"the name '{shown}' in it is not UTF-8: rename it") from None
    folders = [path for path, is_dir in visible if is_dir]
    files = [path for path, is_dir in visible if not is_dir]
    return sorted(folders, key=lambda path: natural_order(path.name)), sorted(files)


def image_files(files: list[Path]) -> list[Path]:
    return [file for file in files if is_image_file(file)]


def find_splits(folder: Path) -> dict[str, Path]:
    """Split → its folder, where a folder holds training images beside others; empty where it does not.

    A split is called as by `split_called`, and has class folders in it.

    Raises:
        UserError: two folders are the same split.
    """
    found: dict[str, list[Path]] = {}
    for path in listing(folder)[0]:
        split = split_called(path.name)
        if split is not None and listing(path)[0]:
            found.setdefault(split, []).append(path)
    if TRAIN not in found:
        return {}
    for paths in found.values():
        if len(paths) > 1:
            both = f"{paths[0].name}/ and {paths[1].name}/"
            raise data_error(folder, f"holds {both}, and only one of them can be used: join or rename them")
    splits = {split: found[split][0] for split in (TRAIN, *TEST_SPLITS) if split in found}
    return splits if len(splits) > 1 else {}


class LabelledFiles(NamedTuple):
    """The image files of a folder with one sub-folder per class.

    Attributes:
        paths: in the order of the class folders.
        labels: of each, the number of its class.
        classes: their names, in one spelling.
        others: files that are not images.
    """

    paths: list[Path]
    labels: list[int]
    classes: tuple[str, ...]
    others: list[Path]


def labelled_files(folder: Path) -> LabelledFiles:
    """Finds the image files of a folder with one sub-folder per class, classes numbered in the order of their names.

    Raises:
        UserError: no class folders, no images, or images that belong to no class.
    """
    class_folders, others = listing(folder)
    if not class_folders:
        raise data_error(folder, "no class folders: put the images of each class into a sub-folder of its name")
    if loose := image_files(others):
        raise data_error(loose[0], "an image beside the class folders belongs to no class: move it into one")
    classes = tuple(dict.fromkeys(in_one_spelling(path.name) for path in class_folders))
    paths: list[Path] = []
    labels: list[int] = []
    for class_folder in class_folders:
        files = list(_below(class_folder))
        found = image_files(files)
        if split_called(class_folder.name) == TRAIN and found and all(file.parent != class_folder for file in found):
            what = "it is no class but holds class folders, and no folder beside it holds test images of these classes"
            raise data_error(class_folder, f"{what}: give this folder, {class_folder}")
        others += sorted(set(files) - set(found))
        paths += found
        labels += [classes.index(in_one_spelling(class_folder.name))] * len(found)
    if not paths:
        raise data_error(folder, f"no images in its class folders (looked for {' '.join(IMAGE_SUFFIXES)})")
    return LabelledFiles(paths, labels, classes, others)


def refuse_outer_folder(folder: Path) -> None:
    """Refuses a folder that holds nothing but another one, which holds the classes or the splits.

    Raises:
        UserError: it does.
    """
    folders, _ = listing(folder)
    if len(folders) == 1:
        inner, files = listing(folders[0])
        if len(inner) > 1 and not image_files(files):
            held = f"its only folder holds {len(inner)} folders, {inner[0].name}/ for one"
            raise data_error(folder, f"{held}: give {folders[0]}")


def refuse_splits(folder: Path) -> None:
    """Refuses a folder with splits where one set of images is wanted.

    Raises:
        UserError: it has splits.
    """
    if splits := find_splits(folder):
        held = " and ".join(f"{split.name}/" for split in splits.values())
        raise data_error(folder, f"holds {held}: name one")


def files_to_predict(folder: Path) -> list[Path]:
    """The image files of a folder and of all folders below it, in the order of `listing`, its own files first.

    Raises:
        UserError: none is there, or the folder has splits.
    """
    refuse_splits(folder)
    folders, files = listing(folder)
    if paths := image_files([*files, *chain.from_iterable(map(_below, folders))]):
        return paths
    raise data_error(folder, f"no images in this folder, nor below it (looked for {' '.join(IMAGE_SUFFIXES)})")


def read_folder(folder: Path, name: str, reading: Reading) -> Source:
    """Images of a folder with one sub-folder per class, the classes numbered in the order of their names.

    Images in sub-folders of a class folder belong to its class. Two spellings of a name in Unicode are one class.

    Raises:
        UserError: as for `labelled_files`, or a file that cannot be read.
    """
    paths, labels, classes, others = labelled_files(folder)
    notes = []
    if nested := sum(path.parent.parent != folder for path in paths):
        notes.append(f"{name}: {nested} images in sub-folders of class folders belong to the class")
    if others:
        notes.append(f"{name}: {len(others)} entries that are not images were left out, {others[0].name} for one")
    named = {path: path.relative_to(folder).as_posix() for path in paths}
    return labelled_photographs(name, str(folder), named, np.array(labels, dtype=np.int64), classes, reading, notes)


def _below(folder: Path) -> Iterator[Path]:
    """All files in a folder, those in its sub-folders last; links to folders are not followed."""
    folders, files = listing(folder)
    yield from files
    for nested in folders:
        if not nested.is_symlink():
            yield from _below(nested)


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in LITTER
