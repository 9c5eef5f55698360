"""Folders of images: one sub-folder per class, or none."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from speedtrain.data.photograph import IMAGE_SUFFIXES, is_image_file
from speedtrain.data.photographs import Photographs, Reading, read_photographs, unreadable_images
from speedtrain.data.source import Source, data_error, unreadable


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder, not a file.

    Raises:
        UserError: it is neither, or cannot be reached.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise data_error(path, "no such file or folder: give an .npz, a folder, cifar10 or digits") from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise data_error(path, "neither a file nor a folder: give an .npz or a folder of class folders")
    return stat.S_ISDIR(mode)


def listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder, hidden ones left out, each sorted by name."""
    try:
        with os.scandir(folder) as entries:
            visible = [(Path(entry.path), entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise unreadable(folder, error) from error
    visible.sort()
    return [path for path, is_dir in visible if is_dir], [path for path, is_dir in visible if not is_dir]


def image_files(files: list[Path]) -> list[Path]:
    return [file for file in files if is_image_file(file)]


def has_splits(folder: Path) -> bool:
    """Whether a folder holds `train/` and `test/`, each with folders in it."""
    splits = (folder / "train", folder / "test")
    return all(os.path.isdir(split) and listing(split)[0] for split in splits)


def read_folder(folder: Path, name: str, reading: Reading) -> Source:
    """Images of a folder with one sub-folder per class, the classes numbered in the order of their names.

    Raises:
        UserError: no class folders, no images, images that belong to no class, or a file that cannot be read.
    """
    class_folders, others = listing(folder)
    if not class_folders:
        raise data_error(folder, "no class folders: put the images of each class into a sub-folder of its name")
    if loose := image_files(others):
        raise data_error(loose[0], "an image beside the class folders belongs to no class: move it into one")
    paths: list[Path] = []
    labels: list[int] = []
    for label, class_folder in enumerate(class_folders):
        nested, files = listing(class_folder)
        found = image_files(files)
        if nested and not found:
            raise data_error(
                class_folder, "folders but no images in it: name the folder whose sub-folders are the classes"
            )
        others += nested + sorted(set(files) - set(found))
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise data_error(folder, f"no images in its class folders (looked for {' '.join(IMAGE_SUFFIXES)})")
    read = read_photographs(paths, reading)
    if read.problems and not reading.skip_unreadable:
        raise unreadable_images(read.problems, "mend or remove what is damaged, or leave it out by --skip-unreadable")
    if not len(read.images):
        raise unreadable_images(read.problems, "no image is left; mend them")
    notes = [*_notes_on_reading(name, read, reading), *read.notes]
    if others:
        notes.append(f"{name}: {len(others)} entries that are not images were left out, {others[0].name} for one")
    return Source(
        name=name,
        where=str(folder),
        images=read.images,
        labels=np.array(labels, dtype=np.int64)[read.readable],
        classes=tuple(class_folder.name for class_folder in class_folders),
        notes=tuple(notes),
        by_name=True,
        files=tuple(path.relative_to(folder).as_posix() for path in paths if path not in read.problems),
        problems={path.relative_to(folder).as_posix(): why for path, why in read.problems.items()},
    )


def _notes_on_reading(name: str, read: Photographs, reading: Reading) -> Iterator[str]:
    """What was done to the images of a folder."""
    count, side = len(read.images), read.images.shape[1]
    done = {
        "crop": "cut to a square and resized to",
        "pad": "resized and filled up with their mean colour to",
        "squash": "resized, whatever their shape, to",
    }[reading.fit]
    if read.resized:
        yield f"{name}: {read.resized} of {count} images were {done} {side}×{side}"
    if read.problems:
        first, why = next(iter(read.problems.items()))
        yield f"{name}: {len(read.problems)} files that cannot be read were left out, {first.name} for one ({why})"
