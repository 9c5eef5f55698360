"""Finding, reading and checking the images, before the clock starts.

Whatever the source — CIFAR-10, scikit-learn's digits, an .npz, a folder of class folders, two arrays — it
comes out as uint8 images [N, 32, 32, 3] with int64 labels, or as a UserError of one line. Images of another
size are cut to their centred square and resampled to 32×32 (bicubic, antialiased when shrinking).

No torch in here: most bad input is refused before that is imported. torchvision and scikit-learn take seconds to
import too, and are imported only where they are needed.
"""

import hashlib
import http.client
import os
import socket
import stat
import threading
import urllib.request
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from speedtrain.errors import UserError

SIDE = 32

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"  # torchvision's
CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_PER_CLASS = 500  # the competition's
PROBE_SECONDS = 3.0
DOWNLOAD_STALL_SECONDS = 30.0

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".pbm", ".tif", ".tiff")
# Pillow goes by the content, not by the suffix, and some of its other readers start programs (Ghostscript).
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "PPM", "TIFF")

Arrays = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Images:
    """A labelled set.

    Attributes:
        name: "cifar10", "digits", "arrays", or the name of the file or folder.
        images: uint8 [N, 32, 32, 3].
        labels: int64 [N], 0..K-1.
        classes: the K names; the numbers themselves where the source gives none.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def sha256(self) -> str:
        """Hex digest of the image bytes followed by the labels as little-endian int64."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        digest.update(self.labels.astype("<i8").data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Data:
    """What a run trains on and is scored on.

    Attributes:
        train: the training images, every class among them.
        test: the test images, every class among them, numbered as the training classes.
        test_is_holdout: whether the test images were held out of the training images given.
        notes: lines a person must be told.
        root: the folder in which CIFAR-10 lies, None where it was not needed.
    """

    train: Images
    test: Images
    test_is_holdout: bool
    notes: tuple[str, ...]
    root: str | None = None


def load_data(
    data: str | Path | Arrays = "auto",
    test: str | Path | Arrays | None = None,
    *,
    per_class: int | Literal["all"] | None = None,
    data_root: str | Path | None = None,
) -> Data:
    """Reads and checks training and test images.

    Without `test`, the test images are the source's own: CIFAR-10's, or the `test/` of a folder that holds
    `train/` and `test/`. A source without any gives up a stratified fifth, always the same one.

    Args:
        data: "auto" (CIFAR-10, or the digits where it cannot be had), "cifar10", "digits", the path of an
            .npz or of a folder with a sub-folder a class, or (images, labels).
        test: the same forms; None takes the source's own, or a holdout.
        per_class: training images a class, drawn at random but always the same; None means all, but 500
            for CIFAR-10.
        data_root: where CIFAR-10 is looked for first, before $SPEEDTRAIN_DATA and ./data, and downloaded to.

    Raises:
        UserError: the images cannot be had, read or used.
    """
    if per_class not in (None, "all") and not (isinstance(per_class, int | np.integer) and per_class >= 1):
        raise _error("--per-class", f"{per_class!r} given: give a whole number from 1, or all")
    if isinstance(data, str) and data == "auto" and test is not None:
        data = "cifar10"  # test images of one's own belong to one data set: do not fall back to another

    source, test_source = _open(data, data_root)
    if test is not None:
        given, own_test = _open(test, data_root)
        test_source = own_test or given

    train = _training_set(source)
    notes = list(source.notes)
    if test_source is None:
        train, held, note = _hold_out(train, source.where)
        notes.append(note)
    else:
        held, test_notes = _test_set(test_source, train, named=source.classes is not None)
        notes += test_notes

    if per_class is None and source.default_per_class is not None:
        per_class = source.default_per_class
        notes.append(f"training on {per_class} images a class, the competition's (--per-class all takes all)")
    if per_class not in (None, "all"):
        train, limit_notes = _limit(train, int(per_class))
        notes += limit_notes

    known = set(_fingerprints(train.images))
    seen = sum(fingerprint in known for fingerprint in _fingerprints(held.images))
    if seen:
        notes.append(
            f"{seen} of the {len(held.labels)} test images are also among the training images: "
            "the accuracy will flatter"
        )
    root = source.root or (test_source.root if test_source is not None else None)
    return Data(train, held, test_source is None, tuple(dict.fromkeys(notes)), root)


def load_images(
    path: str | Path, *, need_labels: bool = False
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...] | None]:
    """Reads images to predict: an .npz, a folder of class folders, a folder of images, or one image file.

    Images of a folder are ordered by the name of their class folder, if any, then by their own.

    Returns:
        images uint8 [N, 32, 32, 3]; labels int64 [N] or None; the names of the classes or None.

    Raises:
        UserError: the images cannot be read, or have no labels although `need_labels`.
    """
    path = Path(path)
    if _is_folder(path):
        if _has_splits(path):
            raise _error(path, "holds train/ and test/: name one of the two")
        class_folders, files = _listing(path)
        if class_folders:
            source = _read_folder(path, path.name)
            return source.images, source.labels, source.classes
        paths = _image_files(files)
        if not paths:
            raise _error(path, f"no images in this folder (looked for {' '.join(IMAGE_SUFFIXES)})")
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        paths = [path]
    else:
        arrays = _npz_arrays(path, required=("images", "labels") if need_labels else ("images",))
        if "labels" not in arrays:
            return _standard(arrays["images"], str(path))[0], None, None
        source = _source(path.name, str(path), **arrays)
        return source.images, source.labels, source.classes
    if need_labels:
        raise _error(path, "no labels: give an .npz with labels, or a folder with a sub-folder a class")
    return _read_images(paths)[0], None, None


def image_names(path: str | Path) -> list[str] | None:
    """The names of the image files that `load_images` reads, in its order and relative to the folder; None where
    the images come from an .npz."""
    path = Path(path)
    if path.suffix.lower() in IMAGE_SUFFIXES and not _is_folder(path):
        return [path.name]
    if not _is_folder(path):
        return None
    class_folders, files = _listing(path)
    for class_folder in class_folders:
        files += _listing(class_folder)[1]
    files = [file for file in files if not class_folders or file.parent != path]
    return [str(file.relative_to(path)) for file in _image_files(files)]


# ── From what a person names to a source ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Source:
    """Labelled images as read, each by itself in order; whether the set as a whole will do comes after.

    Attributes:
        name: as in `Images`.
        where: how error messages call it, the whole path.
        images: uint8 [N, 32, 32, 3], N ≥ 1.
        labels: int64 [N], 0 or more, below the number of classes where these are named.
        classes: their names, None where they are only numbered.
        notes: what was done to the images.
        by_name: whether the numbers mean nothing but the order of the names, as in a folder.
        default_per_class: training images a class where a person asks for no number.
        root: as in `Data`.
    """

    name: str
    where: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...] | None
    notes: tuple[str, ...] = ()
    by_name: bool = False
    default_per_class: int | None = None
    root: str | None = None


def _error(where: object, what: str) -> UserError:
    """An error of one line, whatever line breaks a file's name or a library's message may hold."""
    return UserError(" ".join(f"{where}: {what}".split()))


def _open(data: str | Path | Arrays, data_root: str | Path | None) -> tuple[_Source, _Source | None]:
    """The images that `data` names, and its own test images where it has any."""
    if isinstance(data, tuple):
        return _from_arrays(data), None
    if not isinstance(data, str | Path):
        raise UserError(f"data is a {type(data).__name__}: give a name, a path or a tuple (images, labels)")
    if data == "cifar10":
        return _read_cifar10(data_root)
    if data == "digits":
        return _read_digits(), None
    if data == "auto":
        try:
            return _read_cifar10(data_root)
        except UserError as error:
            digits = _read_digits()
            note = f"training on scikit-learn's digits instead of CIFAR-10 ({error})"
            return replace(digits, notes=(note, *digits.notes)), None
    path = Path(data)
    name = os.path.basename(os.path.abspath(path))  # of "." too
    if not _is_folder(path):
        return _source(name, str(path), **_npz_arrays(path, required=("images", "labels"))), None
    if _has_splits(path):
        return _read_folder(path / "train", name), _read_folder(path / "test", name)
    return _read_folder(path, name), None


def _read_cifar10(data_root: str | Path | None) -> tuple[_Source, _Source]:
    """CIFAR-10's training and test images, downloaded if need be.

    Raises:
        UserError: neither on disk nor to be had.
    """
    places = (data_root, os.environ.get("SPEEDTRAIN_DATA"), "data")
    roots = [Path(place) for place in places if place]
    problem = f"no {CIFAR10_FOLDER} folder in {' or '.join(map(str, roots))}"
    for root in roots:
        folder = root / CIFAR10_FOLDER
        if os.path.isdir(folder):
            try:
                return _torchvision_cifar10(root, download=False)
            except (OSError, RuntimeError):
                problem = f"{folder} is damaged or incomplete (its checksums are wrong)"
    if _answers(CIFAR10_URL):
        try:
            return _torchvision_cifar10(roots[0], download=True)
        except (OSError, RuntimeError, EOFError, http.client.HTTPException) as error:
            problem += f", and the download failed ({error})"
    else:
        problem += f", and {CIFAR10_URL} does not answer"
    raise _error(
        "cifar10",
        f"{problem}: unpack cifar-10-python.tar.gz in {roots[0]}, or choose --data digits or --data PATH",
    )


def _torchvision_cifar10(root: Path, download: bool) -> tuple[_Source, _Source]:
    """CIFAR-10 below `root` as torchvision keeps it: it checks every file's MD5, of the archive as well."""
    from torchvision.datasets import CIFAR10

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_STALL_SECONDS)  # torchvision sets none: a dead line would hang for ever
    try:
        splits = [CIFAR10(root, train=train, download=download) for train in (True, False)]
    finally:
        socket.setdefaulttimeout(before)
    train, test = (
        _Source(
            name="cifar10",
            where="cifar10",
            images=np.ascontiguousarray(split.data),
            labels=np.array(split.targets, dtype=np.int64),
            classes=tuple(split.classes),
            root=str(root),
            notes=(f"CIFAR-10 was downloaded to {root}",) if download else (),
            default_per_class=CIFAR10_PER_CLASS,
        )
        for split in splits
    )
    return train, test


def _answers(url: str) -> bool:
    """Whether `url` can be had, decided within PROBE_SECONDS."""
    answers: list[int] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "speedtrain"})
        with (
            suppress(OSError, ValueError, http.client.HTTPException),
            urllib.request.urlopen(request, timeout=PROBE_SECONDS) as response,
        ):
            answers.append(response.status)

    # The timeout above holds for each single wait for the socket and not at all for the look-up of the
    # host's name, hence a thread that can be left behind.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answers)


def _read_digits() -> _Source:
    """scikit-learn's 1,797 digits: 8×8, 0..16."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return _source("digits", "digits", grey, digits.target, np.array([str(name) for name in digits.target_names]))


def _from_arrays(arrays: Arrays) -> _Source:
    """A source of (images, labels), which may be anything that numpy makes an array of."""
    if len(arrays) != 2:
        raise _error("arrays", f"a tuple of {len(arrays)} given: give (images, labels)")
    try:
        images, labels = (np.asarray(array) for array in arrays)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on another device
        raise _error("arrays", f"these are not arrays ({error}): give (images, labels) as numpy arrays") from error
    return _source("arrays", "arrays", images, labels)


# ── Files and folders ─────────────────────────────────────────────────────────────────────────────────────


def _is_folder(path: Path) -> bool:
    """Whether `path` is a folder, not a file.

    Raises:
        UserError: it is neither, or out of reach.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise _error(path, "no such file or folder: give an .npz, a folder, cifar10 or digits") from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise _error(path, "neither a file nor a folder: give an .npz or a folder of class folders")
    return stat.S_ISDIR(mode)


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = error.strerror if isinstance(error, OSError) else None
    return _error(path, f"cannot be read ({reason or error}): check it and its permissions")


def _npz_arrays(path: Path, required: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays `images`, `labels` and `classes` of an .npz, as far as it holds them. Never unpickles.

    Raises:
        UserError: not a whole .npz of plain arrays, or one of the `required` is missing.
    """
    advice = "write it with numpy.savez(path, images=..., labels=...), plain arrays only"
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise _error(path, f"the file is empty: {advice}")
            if not zipfile.is_zipfile(file):
                raise _error(path, f"not an .npz, or a truncated one: {advice}")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                missing = [key for key in required if key not in archive]
                if missing:
                    there = ", ".join(archive.files) or "nothing"
                    raise _error(path, f"no {missing[0]!r} in it (it holds {there}): {advice}")
                arrays = {key: archive[key] for key in ("images", "labels", "classes") if key in archive}
    except UserError:
        raise
    except MemoryError as error:
        raise _error(path, f"an array in it does not fit into memory ({error}): write a smaller one") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    # zipfile, zlib, lzma, struct, numpy's parser of headers: each has its own ways to fail on a damaged file
    except Exception as error:
        raise _error(path, f"damaged, or not plain arrays ({error}): {advice}") from error
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):  # a member that is no .npy comes as its bytes
            raise _error(path, f"{key!r} in it is not an array: {advice}")
    return arrays


def _listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder, hidden ones left out, each sorted by name."""
    try:
        with os.scandir(folder) as entries:
            visible = [(Path(entry.path), entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise _unreadable(folder, error) from error
    visible.sort()
    return [path for path, is_dir in visible if is_dir], [path for path, is_dir in visible if not is_dir]


def _image_files(files: list[Path]) -> list[Path]:
    return [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]


def _has_splits(folder: Path) -> bool:
    """Whether a folder holds `train/` and `test/`, each with folders in it."""
    splits = (folder / "train", folder / "test")
    return all(os.path.isdir(split) and _listing(split)[0] for split in splits)


def _read_folder(folder: Path, name: str) -> _Source:
    """Images of a folder with a sub-folder a class, the classes numbered in the order of their names.

    Raises:
        UserError: no class folders, no images, images that belong to no class, or a file that cannot be read.
    """
    class_folders, others = _listing(folder)
    if not class_folders:
        raise _error(folder, "no class folders: put the images of each class into a sub-folder of its name")
    if loose := _image_files(others):
        raise _error(loose[0], "an image beside the class folders belongs to no class: move it into one")
    paths: list[Path] = []
    labels: list[int] = []
    for label, class_folder in enumerate(class_folders):
        nested, files = _listing(class_folder)
        found = _image_files(files)
        if nested and not found:
            raise _error(class_folder, "folders but no images in it: name the folder whose sub-folders are the classes")
        others += nested + sorted(set(files) - set(found))
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise _error(folder, f"no images in its class folders (looked for {' '.join(IMAGE_SUFFIXES)})")
    images, resized = _read_images(paths)
    notes = []
    if resized:
        notes.append(f"{name}: {resized} of {len(paths)} images were cut to a square and resized to {SIDE}×{SIDE}")
    if others:
        notes.append(f"{name}: {len(others)} entries that are not images were left out, {others[0].name} for one")
    return _Source(
        name=name,
        where=str(folder),
        images=images,
        labels=np.array(labels, dtype=np.int64),
        classes=tuple(class_folder.name for class_folder in class_folders),
        notes=tuple(notes),
        by_name=True,
    )


def _read_images(paths: list[Path]) -> tuple[np.ndarray, int]:
    """Reads image files.

    Returns:
        uint8 [N, 32, 32, 3], and how many of them had another size.

    Raises:
        UserError: a file cannot be read as an image.
    """
    images = np.empty((len(paths), SIDE, SIDE, 3), np.uint8)
    resized = 0
    for row, path in zip(images, paths, strict=True):
        try:
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                resized += image.size != (SIDE, SIDE)
                row[:] = _fit(_eight_bit(image))
        # the formats' readers have as many ways to fail on a damaged file as there are formats
        except Exception as error:
            raise _error(path, f"cannot be read as an image ({error}): mend or remove it") from error
    return images, resized


def _eight_bit(image: Image.Image) -> Image.Image:
    """The image in RGB, 8 bits a channel; transparency is dropped."""
    if image.mode.startswith(("I", "F")):  # Pillow's own conversion clips these at 255: white all over
        pixels = np.asarray(image)
        if image.mode == "F" or pixels.min() < 0 or pixels.max() > 0xFFFF:
            raise ValueError("32-bit pixels")
        image = Image.fromarray((pixels >> 8).astype(np.uint8))
    return image.convert("RGB")


# ── Arrays ────────────────────────────────────────────────────────────────────────────────────────────────


def _source(
    name: str, where: str, images: np.ndarray, labels: np.ndarray, classes: np.ndarray | None = None
) -> _Source:
    """Checks arrays as found and brings them to the form of a source.

    Args:
        name: as in `_Source`.
        where: as in `_Source`.
        images: [N, H, W, C] or [N, H, W].
        labels: [N].
        classes: strings [K].

    Raises:
        UserError: any of them is not as it should be.
    """
    standard, notes = _standard(images, where)
    if labels.dtype.kind not in "iu":
        plain = labels.dtype.kind == "b" or (labels.dtype.kind == "f" and bool((labels == np.floor(labels)).all()))
        hint = ": give labels.astype(int)" if plain else ": give whole numbers from 0"
        raise _error(where, f"labels are {labels.dtype}, not whole numbers{hint}")
    if labels.ndim != 1:
        hint = "labels.ravel()" if labels.size == len(images) else "one number an image"
        raise _error(where, f"labels have shape {labels.shape}, not [N]: give {hint}")
    if len(labels) != len(images):
        raise _error(where, f"{len(labels)} labels for {len(images)} images: give one an image")
    if labels.min() < 0:
        raise _error(where, f"label {labels.min()} is negative: number the classes from 0")
    if labels.max() > np.iinfo(np.int64).max:
        raise _error(where, f"label {labels.max()} is too large: number the classes from 0")
    numbers = labels.astype(np.int64)
    names = None if classes is None else _class_names(classes, where)
    if names is not None and numbers.max() >= len(names):
        raise _error(where, f"label {numbers.max()} but only {len(names)} names in classes: name every class")
    return _Source(name, where, standard, numbers, names, tuple(f"{name}: {note}" for note in notes))


def _class_names(classes: np.ndarray, where: str) -> tuple[str, ...]:
    """The names in an array of strings [K]."""
    if classes.dtype.kind != "U" or classes.ndim != 1:
        found = f"{classes.dtype} of shape {classes.shape}"
        raise _error(where, f"classes are {found}, not a list of names: give numpy.array([...], dtype=str)")
    names = tuple(str(name) for name in classes)
    if len(set(names)) < len(names):
        raise _error(where, "two classes have the same name: give each its own")
    return names


def _standard(images: np.ndarray, where: str) -> tuple[np.ndarray, list[str]]:
    """Checks an array of images and brings it to the standard form.

    Args:
        images: uint8, or floats within [0, 1] or [0, 255]; [N, H, W, C] with 1 or 3 channels, or [N, H, W].
        where: how an error calls it.

    Returns:
        uint8 [N, 32, 32, 3], and notes on what was done.

    Raises:
        UserError: another type or shape, or values out of range.
    """
    if images.ndim not in (3, 4):
        raise _error(where, f"images have shape {images.shape}: give [N, H, W, 3], [N, H, W, 1] or [N, H, W]")
    count, height, width = images.shape[:3]
    channels = images.shape[3] if images.ndim == 4 else 1
    if channels not in (1, 3):
        hint = "images.transpose(0, 2, 3, 1)" if images.shape[1] in (1, 3) else "grey or RGB"
        raise _error(where, f"images have {channels} channels (shape {images.shape}), not 1 or 3: give {hint}")
    if not count:
        raise _error(where, "it holds no images: give at least two a class")
    if not (height and width):
        raise _error(where, f"images of {height}×{width} pixels: give images of at least 1×1")

    notes = []
    if images.dtype.kind == "f":
        images, note = _from_floats(images, where)
        notes.append(note)
    elif images.dtype != np.uint8:
        hint = "images.astype(numpy.uint8)" if images.dtype.kind in "iu" else "uint8, 0 to 255"
        raise _error(where, f"images are {images.dtype}, not uint8: give {hint}")

    images = images.reshape(count, height, width, channels)
    if channels == 1:
        notes.append("grey images, repeated to RGB")
    if height != width:
        notes.append(f"{height}×{width} images, cut to their centred square and resized to {SIDE}×{SIDE}")
    elif height != SIDE:
        notes.append(f"{height}×{width} images, resized to {SIDE}×{SIDE}")
    if (height, width) == (SIDE, SIDE):
        return np.ascontiguousarray(np.broadcast_to(images, (count, SIDE, SIDE, 3))), notes
    standard = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for row, image in zip(standard, images, strict=True):
        row[:] = _fit(Image.fromarray(image.squeeze(2) if channels == 1 else image))
    return standard, notes


def _from_floats(images: np.ndarray, where: str) -> tuple[np.ndarray, str]:
    """uint8 of the same shape, and a note on how."""
    low, high = images.min(), images.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise _error(where, "images hold NaN or infinity: give uint8, 0 to 255")
    if low < 0 or high > 255:
        raise _error(where, f"images run from {low:g} to {high:g}, neither 0 to 1 nor 0 to 255: give uint8")
    scale = 255 if high <= 1 else 1
    converted = np.empty(images.shape, np.uint8)
    for row, image in zip(converted, images, strict=True):  # one at a time: the whole in floats is large
        row[:] = np.rint(image * scale)
    return converted, f"{images.dtype} images from 0 to {255 // scale}, converted to uint8"


def _fit(image: Image.Image) -> np.ndarray:
    """The centred square of an image of mode L or RGB, resampled to uint8 [32, 32, 3]."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.crop(box).resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB"))


# ── From sources to training and test images ──────────────────────────────────────────────────────────────


def _training_set(source: _Source) -> Images:
    """The whole source as training images.

    Raises:
        UserError: one class only, or a class without images.
    """
    present = np.unique(source.labels)
    if len(present) == 1:
        raise _error(source.where, "all images are of one class: give at least two classes")
    # Before naming them all: labels from a file may be as large as 2⁶³.
    num_classes = len(source.classes) if source.classes else int(present[-1]) + 1
    missing = _first_missing(present, num_classes)
    if missing is not None:
        name = source.classes[missing] if source.classes else str(missing)
        raise _error(source.where, f"class {name!r} has no training image: add some, or number without gaps from 0")
    return Images(source.name, source.images, source.labels, source.classes or _numbers(num_classes))


def _test_set(source: _Source, train: Images, named: bool) -> tuple[Images, list[str]]:
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
        raise _error(source.where, f"not the classes of the training images ({what}): name and number both alike")
    elif named == (source.classes is None) and names != _numbers(len(names)):
        notes.append(
            f"only one of {train.name} and {source.name} names its classes: "
            f"0 is taken for {names[0]!r} in both, and so on"
        )
    num_classes = len(train.classes)
    if labels.max() >= num_classes:
        raise _error(
            source.where,
            f"test label {labels.max()}, but the training images have {num_classes} classes from 0: number both alike",
        )
    missing = _first_missing(np.unique(labels), num_classes)
    if missing is not None:
        raise _error(source.where, f"class {train.classes[missing]!r} has no test image: add some to it")
    return Images(source.name, source.images, labels, train.classes), notes


def _hold_out(train: Images, where: str) -> tuple[Images, Images, str]:
    """What remains of the training images, a fifth of each class held out for testing, and a note.

    Raises:
        UserError: a class has a single image.
    """
    counts = np.bincount(train.labels)
    if counts.min() == 1:
        name = train.classes[counts.argmin()]
        raise _error(where, f"class {name!r} has a single image, none to hold out: add more, or give --test")
    out = _stratified(train.labels, lambda count: max(1, round(count / 5)))
    note = f"test images: a stratified holdout of {out.sum()} of the {len(out)} images of {train.name}"
    return _subset(train, ~out), _subset(train, out), note


def _limit(train: Images, per_class: int) -> tuple[Images, list[str]]:
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
    return replace(images, images=images.images[chosen], labels=images.labels[chosen])


def _fingerprints(images: np.ndarray) -> list[bytes]:
    """A digest of each image's bytes."""
    return [hashlib.blake2b(image.data, digest_size=16).digest() for image in images]
