"""Reading and checking images: real files, real servers, every way to be wrong."""

import hashlib
import io
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from speedtrain.data import Data, load_data, load_images
from speedtrain.data import cifar10 as data_module
from speedtrain.errors import UserError

CLOSED_PORT = "http://127.0.0.1:9/cifar-10-python.tar.gz"  # refused at once, with a network or without


def some_images(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *(shape or (32, 32, 3))), dtype=np.uint8)


def some_labels(count: int, num_classes: int = 3) -> np.ndarray:
    return np.arange(count) % num_classes


def save_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def save_folder(root: Path, classes: dict[str, np.ndarray], suffix: str = ".png") -> Path:
    for name, images in classes.items():
        (root / name).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(root / name / f"{number:04}{suffix}")
    return root


def digests(images: np.ndarray) -> list[str]:
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def error_of(call: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    """The message of the UserError that the call must raise, which must be one line."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert message == message.strip()
    assert len(message.splitlines()) == 1
    return message


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers of these tests are on this machine."""
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No CIFAR-10 on disk, none to be had; the folder where it is looked for."""
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.setattr(data_module, "CIFAR10_URL", CLOSED_PORT)
    monkeypatch.setenv("SPEEDTRAIN_DATA", str(root))
    monkeypatch.chdir(root)
    return root


# ── What comes through ────────────────────────────────────────────────────────────────────────────────────


def test_npz_comes_through_unchanged(tmp_path: Path) -> None:
    images, labels = some_images(30), some_labels(30)
    train = save_npz(tmp_path / "a.npz", images=images, labels=labels, classes=["x", "y", "z"], extra=np.ones(2))
    test_images = some_images(6, seed=1)
    test = save_npz(tmp_path / "b.npz", images=test_images, labels=some_labels(6).astype(np.uint8))

    data = load_data(train, test)

    np.testing.assert_array_equal(data.train.images, images)
    np.testing.assert_array_equal(data.train.labels, labels)
    np.testing.assert_array_equal(data.test.images, test_images)
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.dtype == data.test.labels.dtype == np.int64
    assert data.train.classes == data.test.classes == ("x", "y", "z")
    assert (data.train.name, data.test.name) == ("a.npz", "b.npz")
    assert not data.test_is_holdout
    assert data.notes == ("only one of a.npz and b.npz names its classes: 0 is taken for 'x' in both, and so on",)


def test_unnamed_classes_are_called_by_their_numbers(tmp_path: Path) -> None:
    data = load_data((some_images(12), some_labels(12)), (some_images(3, seed=1), some_labels(3)))
    assert data.train.classes == ("0", "1", "2")
    assert data.train.name == "arrays"
    assert data.notes == ()


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 1)])
def test_grey_is_repeated(shape: tuple[int, ...]) -> None:
    images = some_images(12, *shape)
    train = load_data((images, some_labels(12)), (images, some_labels(12))).train
    assert train.images.shape == (12, 32, 32, 3)
    assert train.images.flags.c_contiguous
    for channel in range(3):
        np.testing.assert_array_equal(train.images[..., channel], images.reshape(12, 32, 32))


@pytest.mark.parametrize(("dtype", "scale"), [("f2", 255), ("f4", 255), ("f8", 1), (">f4", 255)])
def test_floats_are_converted_without_loss(dtype: str, scale: int) -> None:
    images = some_images(12)
    images[0, 0, 0] = (0, 255, 128)
    data = load_data(((images / scale).astype(dtype), some_labels(12)), (images, some_labels(12)))
    np.testing.assert_array_equal(data.train.images, images)
    assert any(f"from 0 to {255 // scale}, converted" in note for note in data.notes)


def test_other_sizes_are_resized_and_said() -> None:
    wide = np.zeros((6, 64, 128, 3), np.uint8)
    wide[:, :, 32:96] = 200  # the centred square
    small = np.full((6, 8, 8), 77, np.uint8)
    data = load_data((wide, some_labels(6)), (small, some_labels(6)))
    assert np.all(data.train.images == 200)
    assert np.all(data.test.images == 77)
    assert "arrays: 64×128 images, cut to their centred square and resized to 32×32" in data.notes
    assert "arrays: 8×8 images, resized to 32×32" in data.notes
    assert "arrays: grey images, repeated to RGB" in data.notes


def test_shrinking_is_antialiased() -> None:
    checkers = np.indices((1, 256, 256)).sum(0).astype(np.uint8) % 2 * 255
    shrunk = load_data((np.repeat(checkers, 4, 0), some_labels(4, 2))).train.images
    assert abs(shrunk.astype(int) - 127).max() <= 2


def test_folder_of_class_folders(tmp_path: Path) -> None:
    images = some_images(12)
    folder = save_folder(tmp_path / "pets", {"dog": images[:5], "cat": images[5:], ".cache": images[:1]})
    (folder / "cat" / ".hidden.png").write_bytes(b"not an image")
    (folder / "README.md").write_text("pets")
    test = save_folder(tmp_path / "test", {"cat": images[:1], "dog": images[1:2]})

    data = load_data(str(folder), test)

    assert data.train.classes == ("cat", "dog")
    np.testing.assert_array_equal(data.train.images, np.concatenate([images[5:], images[:5]]))
    np.testing.assert_array_equal(data.train.labels, [0] * 7 + [1] * 5)
    assert data.train.name == "pets"
    assert "pets: 1 entries that are not images were left out, README.md for one" in data.notes
    assert not any("resized" in note for note in data.notes)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".webp", ".gif", ".ppm", ".JPEG", ".tif"])
def test_image_formats(tmp_path: Path, suffix: str) -> None:
    flat = np.broadcast_to(np.array([10, 100, 200], np.uint8), (2, 32, 32, 3))
    folder = save_folder(tmp_path / "flat", {"a": flat, "b": flat}, suffix)
    images, labels, classes = load_images(folder)
    assert abs(images.astype(int) - flat[0, 0, 0]).max() <= 3
    assert (labels.tolist(), classes) == ([0, 0, 1, 1], ("a", "b"))


def test_modes_of_pillow(tmp_path: Path) -> None:
    """Palette, transparency, CMYK, one bit, and 16-bit grey, which Pillow alone would turn white."""
    rgb = Image.new("RGB", (50, 40), (204, 204, 204))
    (tmp_path / "images").mkdir()
    for number, mode in enumerate(["P", "RGBA", "LA", "1", "L"]):
        rgb.convert(mode).save(tmp_path / "images" / f"{number}.png")
    rgb.convert("CMYK").save(tmp_path / "images" / "5.jpg")
    Image.fromarray(np.full((40, 50), 204 * 256 + 16, np.uint16)).save(tmp_path / "images" / "6.png")
    Image.fromarray(np.full((40, 50), 204 * 256 + 16, np.uint16)).save(tmp_path / "images" / "7.tif")
    images, labels, classes = load_images(tmp_path / "images")
    assert (labels, classes) == (None, None)
    assert images.shape == (8, 32, 32, 3)
    assert abs(images[3].mean() - 204) < 10  # dithered
    assert abs(np.delete(images, 3, 0).astype(int) - 204).max() <= 1


def test_own_splits_of_a_folder(tmp_path: Path) -> None:
    images = some_images(10)
    save_folder(tmp_path / "set" / "train", {"a": images[:3], "b": images[3:6]})
    save_folder(tmp_path / "set" / "test", {"a": images[6:7], "b": images[7:]})
    data = load_data(tmp_path / "set")
    assert not data.test_is_holdout
    assert (data.train.name, data.test.name) == ("set", "set")
    np.testing.assert_array_equal(data.train.images, images[:6])
    np.testing.assert_array_equal(data.test.images, images[6:])
    assert data.test.labels.tolist() == [0, 1, 1, 1]
    np.testing.assert_array_equal(load_data(images_and(4), tmp_path / "set").test.images, images[6:])
    assert "test/: name one" in error_of(load_images, tmp_path / "set")


def images_and(count: int) -> tuple[np.ndarray, np.ndarray]:
    return some_images(count, seed=7), some_labels(count, 2)


def test_a_test_folder_is_matched_by_name(tmp_path: Path) -> None:
    """Names, not the order of the names: an .npz may number them as it likes, and "10" sorts before "2"."""
    shapes = some_images(4)
    train = save_npz(tmp_path / "t.npz", images=some_images(8), labels=some_labels(8, 2), classes=["dog", "cat"])
    test = save_folder(tmp_path / "test", {"cat": shapes[:1], "dog": shapes[1:3]})
    assert load_data(train, test).test.labels.tolist() == [1, 0, 0]

    numbers = {str(number): some_images(1, seed=1 + number) for number in range(11)}
    test = save_folder(tmp_path / "numbers", numbers)
    data = load_data((some_images(22), some_labels(22, 11)), test)
    assert data.test.labels.tolist() == [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]
    assert data.notes == ()


def test_digits() -> None:
    data = load_data("digits")
    assert data.train.name == data.test.name == "digits"
    assert data.test_is_holdout
    assert data.train.classes == tuple("0123456789")
    assert len(data.train.labels) + len(data.test.labels) == 1797
    assert data.train.images.shape[1:] == (32, 32, 3)
    assert data.train.images.min() == 0
    assert data.train.images.max() == 255
    zero = data.train.images[data.train.labels == 0].mean(0)[..., 0]
    assert zero[14:18, 14:18].mean() < 60 < 120 < zero[14:18, 7:12].mean()  # a ring
    assert any("stratified holdout of 359 of the 1797" in note for note in data.notes)


def test_digits_as_test_images() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    data = load_data((digits.images / 16, digits.target), "digits", per_class=5)
    assert len(data.test.labels) == 1797
    assert any("50 of the 1797 test images are also" in note for note in data.notes)


def test_sha256_is_of_pixels_and_labels(tmp_path: Path) -> None:
    images, labels = some_images(12), some_labels(12)
    train = load_data((images, labels.astype(">i2")), (images, labels)).train
    expected = hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    assert train.sha256() == expected
    assert load_data((images, labels[::-1].copy()), (images, labels)).train.sha256() != expected


# ── Holdout, per class, overlap ───────────────────────────────────────────────────────────────────────────


def uneven() -> tuple[np.ndarray, np.ndarray]:
    """A shuffled set of classes with 2, 9, 40 and 149 images."""
    labels = np.random.default_rng(3).permutation(np.repeat([0, 1, 2, 3], [2, 9, 40, 149]))
    return some_images(200), labels


def test_holdout_is_a_stratified_fifth() -> None:
    images, labels = uneven()
    data = load_data((images, labels))
    assert data.test_is_holdout
    assert np.bincount(data.test.labels).tolist() == [1, 2, 8, 30]
    assert np.bincount(data.train.labels).tolist() == [1, 7, 32, 119]
    assert sorted(digests(data.train.images) + digests(data.test.images)) == sorted(digests(images))
    label_of = dict(zip(digests(images), labels, strict=True))
    assert [label_of[digest] for digest in digests(data.test.images)] == data.test.labels.tolist()
    assert data.notes == ("test images: a stratified holdout of 41 of the 200 images of arrays",)


def test_holdout_is_always_the_same() -> None:
    first = load_data(uneven())
    np.random.seed(99)
    again = load_data(uneven(), per_class=3)
    assert first.test.sha256() == again.test.sha256()
    assert first.test.sha256() != first.train.sha256()


def test_per_class_takes_exactly_so_many_in_file_order() -> None:
    images, labels = uneven()
    data = load_data((images, labels), (some_images(4, seed=1), np.arange(4)), per_class=20)
    assert np.bincount(data.train.labels).tolist() == [2, 9, 20, 20]
    order = {digest: place for place, digest in enumerate(digests(images))}
    places = [order[digest] for digest in digests(data.train.images)]
    assert places == sorted(places)
    assert labels[places].tolist() == data.train.labels.tolist()
    assert [place for place in places if labels[place] == 3] != np.flatnonzero(labels == 3)[:20].tolist()
    assert data.notes == ("2 of 4 classes have fewer than 20 training images (class '0': 2): taking what is there",)


@pytest.mark.parametrize("per_class", [None, "all", 10_000])
def test_all_images_a_class(per_class: Any) -> None:
    images, labels = uneven()
    data = load_data((images, labels), (some_images(4, seed=1), np.arange(4)), per_class=per_class)
    np.testing.assert_array_equal(data.train.images, images)


def test_holdout_comes_before_per_class() -> None:
    data = load_data(uneven(), per_class=1)
    assert np.bincount(data.train.labels).tolist() == [1, 1, 1, 1]
    assert np.bincount(data.test.labels).tolist() == [1, 2, 8, 30]


@pytest.mark.parametrize("per_class", [0, -3, 2.5, float("nan"), "many", "7"])
def test_bad_per_class(per_class: Any) -> None:
    assert "--per-class" in error_of(load_data, uneven(), per_class=per_class)


def test_overlap_is_said() -> None:
    images, labels = some_images(30), some_labels(30)
    test = np.concatenate([images[:4], some_images(5, seed=2)])
    data = load_data((images, labels), (test, some_labels(9)))
    assert any(note.startswith("4 of the 9 test images are also") for note in data.notes)


# ── Bad arrays, from a file and from memory ───────────────────────────────────────────────────────────────

GOOD, LABELS = some_images(12), some_labels(12)
FLOATS = GOOD.astype(np.float32) / 255


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed.flat[5] = value
    return changed


BAD_ARRAYS = {
    "int64 images": (GOOD.astype(np.int64), LABELS, "int64, not uint8: give images.astype(numpy.uint8)"),
    "bool images": (GOOD > 9, LABELS, "images are bool"),
    "complex images": (GOOD.astype(np.complex64), LABELS, "images are complex64"),
    "text images": (GOOD.astype(str), LABELS, "images are <U"),
    "rank 2": (GOOD.reshape(12, -1), LABELS, "shape (12, 3072)"),
    "rank 5": (GOOD[None], LABELS, "shape (1, 12, 32, 32, 3)"),
    "rank 0": (np.uint8(3), LABELS, "shape ()"),
    "two channels": (GOOD[..., :2], LABELS, "2 channels"),
    "four channels": (some_images(12, 32, 32, 4), LABELS, "4 channels"),
    "channels first": (some_images(12, 3, 32, 32), LABELS, "transpose(0, 2, 3, 1)"),
    "no images": (GOOD[:0], LABELS[:0], "no images"),
    "zero height": (GOOD[:, :0], LABELS, "0×32 pixels"),
    "zero width": (GOOD[:, :, :0], LABELS, "32×0 pixels"),
    "nan": (with_value(FLOATS, np.nan), LABELS, "NaN"),
    "inf": (with_value(FLOATS, np.inf), LABELS, "infinity"),
    "minus inf": (with_value(FLOATS, -np.inf), LABELS, "infinity"),
    "negative float": (with_value(FLOATS, -0.5), LABELS, "from -0.5 to"),
    "large float": (with_value(FLOATS, 256), LABELS, "to 256"),
    "float labels": (GOOD, LABELS.astype(float), "labels.astype(int)"),
    "bool labels": (GOOD, LABELS > 1, "labels are bool"),
    "text labels": (GOOD, LABELS.astype(str), "labels are <U"),
    "negative label": (GOOD, LABELS - 1, "label -1 is negative"),
    "enormous label": (GOOD, with_value(LABELS, 2**62), "class '3' has no training image"),
    "unsigned label out of range": (GOOD, with_value(LABELS.astype(np.uint64), 2**63), "too large"),
    "too few labels": (GOOD, LABELS[:-1], "11 labels for 12 images"),
    "too many labels": (GOOD[:-1], LABELS, "12 labels for 11 images"),
    "a column of labels": (GOOD, LABELS[:, None], "labels.ravel()"),
    "one-hot labels": (GOOD, np.eye(3, dtype=int)[LABELS], "shape (12, 3)"),
    "one label": (GOOD, np.array(1), "shape ()"),
    "one class": (GOOD, LABELS * 0, "one class"),
    "a single image": (GOOD[:1], LABELS[:1], "one class"),
    "counted from 1": (GOOD, LABELS + 1, "class '0' has no training image"),
    "a gap": (GOOD, LABELS * 2, "class '1' has no training image"),
    "none to hold out": (GOOD, with_value(LABELS, 3), "class '3' has a single image"),
}


@pytest.mark.parametrize(("images", "labels", "said"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
@pytest.mark.parametrize("way", ["npz", "arrays", "test npz"])
def test_bad_arrays(tmp_path: Path, images: np.ndarray, labels: np.ndarray, said: str, way: str) -> None:
    if way == "arrays":
        assert said in error_of(load_data, (images, labels))
        return
    path = save_npz(tmp_path / "bad.npz", images=images, labels=labels)
    if way == "npz":
        message = error_of(load_data, path)
        assert said in message
        assert str(path) in message
    else:  # as test images the same file is wrong too; a set without class 3 has no use for label 3
        assert str(path) in error_of(load_data, (GOOD, LABELS), path)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["a", "b"], "label 2 but only 2 names"),
        ([], "classes are float64"),
        (["a", "b", "c", "d"], "class 'd' has no training image"),
        (["a", "b", "a"], "same name"),
        ([["a", "b", "c"]], "shape (1, 3)"),
        ([b"a", b"b", b"c"], "classes are |S1"),
        (np.array(["a", "b", "c"], dtype=object), "Object arrays cannot be loaded"),
    ],
)
def test_bad_class_names(tmp_path: Path, classes: Any, said: str) -> None:
    path = save_npz(tmp_path / "bad.npz", images=GOOD, labels=LABELS, classes=classes)
    message = error_of(load_data, path)
    assert said in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ((GOOD,), "a tuple of 1"),
        ((GOOD, LABELS, LABELS), "a tuple of 3"),
        (([[1, 2], [3]], LABELS), "these are not arrays"),
        ((GOOD, None), "labels are object"),
        ([GOOD, LABELS], "data is a list"),
        (GOOD, "data is a ndarray"),
        (7, "data is a int"),
        (None, "data is a NoneType"),
    ],
)
def test_bad_from_python(data: Any, said: str) -> None:
    assert said in error_of(load_data, data)


# ── Bad pairs of training and test images ─────────────────────────────────────────────────────────────────


def test_test_labels_must_be_known(tmp_path: Path) -> None:
    message = error_of(load_data, (GOOD, LABELS), (some_images(4), np.array([0, 1, 2, 3])))
    assert "test label 3, but the training images have 3 classes" in message


def test_every_class_needs_a_test_image() -> None:
    message = error_of(load_data, (GOOD, LABELS), (some_images(4), np.array([0, 1, 1, 0])))
    assert "class '2' has no test image" in message


@pytest.mark.parametrize(
    ("names", "said"), [(["a", "b", "d"], "'c' is in only one"), (["b", "a", "c"], "another order")]
)
def test_names_in_both_npz_must_agree(tmp_path: Path, names: list[str], said: str) -> None:
    train = save_npz(tmp_path / "train.npz", images=GOOD, labels=LABELS, classes=["a", "b", "c"])
    test = save_npz(tmp_path / "test.npz", images=GOOD, labels=LABELS, classes=names)
    message = error_of(load_data, train, test)
    assert said in message
    assert str(test) in message


def test_classes_of_own_splits_must_agree(tmp_path: Path) -> None:
    save_folder(tmp_path / "train", {"a": GOOD[:2], "b": GOOD[2:4]})
    save_folder(tmp_path / "test", {"a": GOOD[:2], "c": GOOD[2:4]})
    assert "'b' is in only one of them" in error_of(load_data, tmp_path)


def test_empty_class_folder_of_the_test_split(tmp_path: Path) -> None:
    save_folder(tmp_path / "train", {"a": GOOD[:2], "b": GOOD[2:4]})
    save_folder(tmp_path / "test", {"a": GOOD[:2], "b": GOOD[:0]})
    assert "class 'b' has no test image" in error_of(load_data, tmp_path)


# ── Bad files ─────────────────────────────────────────────────────────────────────────────────────────────


def npy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npy_claiming(shape: tuple[int, ...]) -> bytes:
    """An .npy that claims a shape and holds almost nothing."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue() + b"\0" * 100


def zip_of(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_npy", ".npy"), content)


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def object_npz(path: Path) -> None:
    objects = np.empty(12, dtype=object)
    objects[:] = Bomb(path.with_name("exploded"))
    np.savez(path, images=GOOD, labels=objects)


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(path.with_name("exploded"))))


def truncated_member(path: Path) -> None:
    zip_of(path, images_npy=npy_bytes(GOOD)[:-1000], labels_npy=npy_bytes(LABELS))


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.touch(), "the file is empty"),
    "text": (lambda path: path.write_text("images, labels\n"), "not an .npz"),
    "npy": (lambda path: path.write_bytes(npy_bytes(GOOD)), "not an .npz"),
    "pickle": (pickled, "not an .npz"),
    "object array": (object_npz, "Object arrays cannot be loaded"),
    "no keys": (lambda path: zip_of(path), "no 'images' in it (it holds nothing)"),
    "no labels": (lambda path: save_npz(path, images=GOOD, y=LABELS), "no 'labels' in it (it holds images, y)"),
    "no images": (lambda path: save_npz(path, X=GOOD, labels=LABELS), "no 'images' in it (it holds X, labels)"),
    "another zip": (lambda path: zip_of(path, readme=b"hello"), "(it holds readme)"),
    "raw members": (lambda path: zip_of(path, images=b"1", labels=b"2"), "'images' in it is not an array"),
    "not an npy inside": (lambda path: zip_of(path, images_npy=b"\x93NUMPY\1\0", labels_npy=b""), "damaged"),
    "truncated member": (truncated_member, "damaged"),
    "more than memory": (
        lambda path: zip_of(path, images_npy=npy_claiming((10**12, 32, 32, 3)), labels_npy=npy_bytes(LABELS)),
        "does not fit into memory",
    ),
    "more than an integer": (
        lambda path: zip_of(path, images_npy=npy_claiming((2**62, 32, 32, 3)), labels_npy=npy_bytes(LABELS)),
        "",
    ),
    "negative shape": (
        lambda path: zip_of(path, images_npy=npy_claiming((-12, 32, 32, 3)), labels_npy=npy_bytes(LABELS)),
        "damaged",
    ),
}


@pytest.mark.parametrize(("write", "said"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files(tmp_path: Path, write: Callable[[Path], object], said: str) -> None:
    path = tmp_path / "bad.npz"
    write(path)
    for message in (error_of(load_data, path), error_of(load_images, path, need_labels=True)):
        assert said in message
        assert str(path) in message
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_truncated_anywhere(tmp_path: Path, save: Callable[..., None]) -> None:
    path = tmp_path / "cut.npz"
    save(path, images=GOOD, labels=LABELS)
    whole = path.read_bytes()
    for length in np.linspace(1, len(whole) - 1, 40, dtype=int):
        path.write_bytes(whole[:length])
        assert str(path) in error_of(load_data, path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_anywhere(tmp_path: Path, save: Callable[..., None]) -> None:
    """A flipped byte is noticed or does no harm: never a traceback, never other pixels."""
    path = tmp_path / "flipped.npz"
    save(path, images=GOOD[:, :4, :4], labels=LABELS)
    expected = load_data(path)
    whole = path.read_bytes()
    noticed = []
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            data = load_data(path)
        except UserError as error:
            noticed.append(str(error))
        else:
            assert (data.train.sha256(), data.test.sha256()) == (expected.train.sha256(), expected.test.sha256())
    assert len(noticed) > len(whole) / 6
    assert all(len(message.splitlines()) == 1 for message in noticed)


@pytest.mark.parametrize("load", [load_data, load_images])
def test_paths_out_of_reach(tmp_path: Path, load: Callable[..., object]) -> None:
    file = tmp_path / "file"
    file.touch()
    loop = tmp_path / "loop.npz"
    loop.symlink_to(loop)
    pipe = tmp_path / "pipe.npz"
    os.mkfifo(pipe)
    assert "no such file" in error_of(load, tmp_path / "absent.npz")
    assert "no such file" in error_of(load, file / "below.npz")
    assert "cannot be read" in error_of(load, loop)
    assert "cannot be read" in error_of(load, tmp_path / ("x" * 300))
    assert "cannot be read" in error_of(load, "nul\0byte")
    assert "neither a file nor a folder" in error_of(load, pipe)
    assert "no such file" in error_of(load, tmp_path / "two\nlines.npz")


@contextmanager
def nobody() -> Iterator[None]:
    """Without root's right to read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_permissions() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own are out of nobody's reach as a whole
        root = Path(name)
        root.chmod(0o755)
        path = save_npz(root / "a.npz", images=GOOD, labels=LABELS)
        folder = save_folder(root / "folder", {"a": GOOD[:2], "b": GOOD[2:4]})
        image = folder / "a" / "0000.png"
        for forbidden in (path, image, folder / "b"):
            forbidden.chmod(0)
        with nobody():
            assert f"{path}: cannot be read (Permission denied)" in error_of(load_data, path)
            assert f"{image}: cannot be read as an image" in error_of(load_images, image)
            assert f"{folder / 'b'}: cannot be read (Permission denied)" in error_of(load_data, folder)
            below = folder / "b" / "below"
            assert f"{below}: cannot be read (Permission denied)" in error_of(load_data, below)
        (folder / "b").chmod(0o755)


# ── Bad folders and images ────────────────────────────────────────────────────────────────────────────────


def test_bad_folders(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "no class folders" in error_of(load_data, folder)
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    assert "no images in its class folders (looked for .png" in error_of(load_data, folder)
    Image.fromarray(GOOD[0]).save(folder / "a" / "0.png")
    Image.fromarray(GOOD[0]).save(folder / "a" / "1.png")
    assert "one class" in error_of(load_data, folder)
    (folder / "c").mkdir()
    Image.fromarray(GOOD[0]).save(folder / "c" / "0.png")
    assert "class 'b' has no training image" in error_of(load_data, folder)
    (folder / "b").rmdir()
    assert "class 'c' has a single image" in error_of(load_data, folder)
    Image.fromarray(GOOD[0]).save(folder / "loose.png")
    assert "loose.png: an image beside the class folders" in error_of(load_data, folder)


def test_a_level_too_high(tmp_path: Path) -> None:
    """`train/` and `val/`, or `train/` with unlabelled test images, are no classes."""
    save_folder(tmp_path / "x" / "train", {"a": GOOD[:2], "b": GOOD[2:4]})
    save_folder(tmp_path / "x" / "val", {"a": GOOD[:2], "b": GOOD[2:4]})
    save_folder(tmp_path / "y", {"test": GOOD[:2]})
    save_folder(tmp_path / "y" / "train", {"a": GOOD[:2], "b": GOOD[2:4]})
    for folder in (tmp_path / "x", tmp_path / "y"):
        assert f"{folder / 'train'}: folders but no images in it" in error_of(load_data, folder)


BAD_IMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no image"),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "damaged": lambda path: path.write_bytes(path.read_bytes()[:600] + b"\0" * 2000),
    "32-bit float": lambda path: Image.fromarray(np.ones((32, 32), np.float32)).save(path, format="TIFF"),
    "32-bit integer": lambda path: Image.fromarray(np.full((32, 32), 10**6, np.int32)).save(path, format="TIFF"),
}


@pytest.mark.parametrize("write", BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_bad_images_are_named(tmp_path: Path, write: Callable[[Path], object]) -> None:
    folder = save_folder(tmp_path / "folder", {"a": GOOD[:2], "b": GOOD[2:4]})
    path = folder / "b" / "0001.png"
    write(path)
    for message in (error_of(load_data, folder), error_of(load_images, path), error_of(load_images, path.parent)):
        assert f"{path}: cannot be read as an image" in message


def test_postscript_never_reaches_ghostscript(tmp_path: Path) -> None:
    """Pillow, left to itself, would know the content for what it is and start that program."""
    Image.fromarray(GOOD[0]).save(tmp_path / "sly.png", format="EPS")
    assert "cannot identify image file" in error_of(load_images, tmp_path / "sly.png")


def test_a_dangling_link_is_no_image(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "folder", {"a": GOOD[:2], "b": GOOD[2:4]})
    (folder / "a" / "x.png").symlink_to(tmp_path / "gone.png")
    assert "x.png: cannot be read" in error_of(load_data, folder)


# ── Images to predict ─────────────────────────────────────────────────────────────────────────────────────


def test_load_images_from_npz(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "a.npz", images=GOOD, labels=LABELS * 0, classes=["a", "b"])
    images, labels, classes = load_images(path, need_labels=True)
    np.testing.assert_array_equal(images, GOOD)
    assert labels.tolist() == [0] * 12  # one class is enough here
    assert classes == ("a", "b")

    path = save_npz(tmp_path / "b.npz", images=GOOD)
    images, labels, classes = load_images(str(path))
    np.testing.assert_array_equal(images, GOOD)
    assert (labels, classes) == (None, None)
    assert "no 'labels' in it (it holds images)" in error_of(load_images, path, need_labels=True)


def test_load_images_from_files(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "pets", {"a": GOOD[:3], "b": GOOD[3:4]})
    images, labels, classes = load_images(folder, need_labels=True)
    np.testing.assert_array_equal(images, GOOD[:4])
    assert (labels.tolist(), classes) == ([0, 0, 0, 1], ("a", "b"))

    images, labels, classes = load_images(folder / "a")
    np.testing.assert_array_equal(images, GOOD[:3])
    assert (labels, classes) == (None, None)

    images, labels, _ = load_images(folder / "a" / "0002.png")
    np.testing.assert_array_equal(images, GOOD[2:3])
    assert labels is None

    assert "no labels" in error_of(load_images, folder / "a", need_labels=True)
    assert "no labels" in error_of(load_images, folder / "a" / "0000.png", need_labels=True)
    (tmp_path / "void").mkdir()
    assert "no images in this folder" in error_of(load_images, tmp_path / "void")


# ── CIFAR-10 ──────────────────────────────────────────────────────────────────────────────────────────────


def test_auto_falls_back_to_digits_and_says_so_once(offline: Path) -> None:
    data = load_data("auto")
    assert data.train.name == "digits"
    said = [note for note in data.notes if "instead of CIFAR-10" in note]
    assert len(said) == 1
    assert "does not answer" in said[0]
    assert f"unpack cifar-10-python.tar.gz in {offline}," in said[0]
    assert list(offline.iterdir()) == []


def test_cifar10_does_not_fall_back(offline: Path) -> None:
    for message in (
        error_of(load_data, "cifar10"),
        error_of(load_data, "digits", "cifar10"),
        error_of(load_data, "auto", (GOOD, LABELS)),
    ):
        assert "no cifar-10-batches-py folder in" in message
        assert "--data digits" in message


def test_the_front_process_stays_light_and_quick(tmp_path: Path) -> None:
    """Falling back imports neither torch nor torchvision; a fresh process, as a person's would be."""
    code = (
        "import sys, speedtrain.data.load as data\n"
        f"data.CIFAR10_URL = {CLOSED_PORT!r}\n"
        "assert 'sklearn' not in sys.modules\n"
        "print(data.load_data('auto').train.name, 'torch' in sys.modules)"
    )
    environment = {**os.environ, "SPEEDTRAIN_DATA": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout == "digits False\n", ran.stderr


@contextmanager
def server(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a web server on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()
            thread.join()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_probe_of_a_server_that_answers(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    with server(partial(Quiet, directory=str(tmp_path))) as address:
        assert data_module._answers(f"{address}/there")
        assert not data_module._answers(f"{address}/not-there")
    assert not data_module._answers(f"{address}/there")


def test_probe_of_a_server_that_dawdles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then resets every timeout of the socket; only the thread's own limit ends it."""
    monkeypatch.setattr(data_module, "PROBE_SECONDS", 0.5)
    done = threading.Event()

    def drip(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            give_up = time.monotonic() + 5
            while not done.wait(0.05) and time.monotonic() < give_up:
                connection.send(b"H")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=(listening,))
        thread.start()
        start = time.monotonic()
        assert not data_module._answers(f"http://127.0.0.1:{listening.getsockname()[1]}/")
        taken = time.monotonic() - start
        done.set()
        thread.join()
    assert 0.5 <= taken < 2


def cifar10_archive(folder: Path) -> Path:
    """An archive in CIFAR-10's format: a pickle a batch, 20 images each, one of them for the test."""
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    contents = {
        name: {"data": some_images(20, 3072, seed=seed), "labels": list(range(10)) * 2}
        for seed, name in enumerate(names)
    }
    contents["batches.meta"] = {"label_names": [f"class {number}" for number in range(10)]}
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name, content in contents.items():
            raw = pickle.dumps(content, protocol=2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return folder / "cifar-10-python.tar.gz"


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small archive that torchvision takes for CIFAR-10's: only its list of checksums is changed."""
    from torchvision.datasets import CIFAR10

    (tmp_path / "served").mkdir()
    path = cifar10_archive(tmp_path / "served")
    with tarfile.open(path) as opened:
        sums = {Path(member.name).name: md5(opened.extractfile(member).read()) for member in opened}
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(path.read_bytes()))
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, sums[name]] for name, _ in CIFAR10.test_list])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    return path


def check_cifar10(data: Data) -> None:
    assert data.train.name == data.test.name == "cifar10"
    assert not data.test_is_holdout
    assert data.train.classes == tuple(f"class {number}" for number in range(10))
    channels_first = np.concatenate([some_images(20, 3072, seed=seed) for seed in range(5)])
    expected = channels_first.reshape(100, 3, 32, 32).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(data.train.images, expected)
    assert data.train.labels.tolist() == list(range(10)) * 10
    assert data.test.images.shape == (20, 32, 32, 3)
    assert data.train.images.flags.c_contiguous


@pytest.mark.parametrize("where", ["data_root", "environment", "here"])
def test_cifar10_on_disk(
    offline: Path, archive: Path, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = {"data_root": tmp_path / "mine", "environment": offline, "here": offline / "data"}[where]
    if where == "here":
        monkeypatch.delenv("SPEEDTRAIN_DATA")
    with tarfile.open(archive) as opened:
        opened.extractall(root, filter="data")
    data_root = tmp_path / "mine" if where == "data_root" else None
    data = load_data("auto", data_root=data_root, per_class="all")
    check_cifar10(data)
    assert data.notes == ()

    data = load_data("cifar10", data_root=data_root)
    assert data.notes[0].startswith("training on 500 images per class, as in the competition")
    data = load_data("cifar10", data_root=data_root, per_class=3)
    assert np.bincount(data.train.labels).tolist() == [3] * 10
    assert len(data.test.labels) == 20


def test_cifar10_is_downloaded(offline: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    with server(partial(Quiet, directory=str(archive.parent))) as address:
        for owner, attribute in ((data_module, "CIFAR10_URL"), (CIFAR10, "url")):
            monkeypatch.setattr(owner, attribute, f"{address}/{archive.name}")
        data = load_data("auto", data_root=offline / "new", per_class="all")
    check_cifar10(data)
    assert data.notes == (f"CIFAR-10 was downloaded to {offline / 'new'}",)
    assert socket.getdefaulttimeout() is None
    check_cifar10(load_data("auto", data_root=offline / "new", per_class="all"))  # the server is gone


def test_half_a_download_is_not_taken(offline: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    archive.write_bytes(archive.read_bytes()[:-1000])
    with server(partial(Quiet, directory=str(archive.parent))) as address:
        for owner, attribute in ((data_module, "CIFAR10_URL"), (CIFAR10, "url")):
            monkeypatch.setattr(owner, attribute, f"{address}/{archive.name}")
        assert "the download failed" in error_of(load_data, "cifar10")
        data = load_data("auto")
    assert data.train.name == "digits"
    assert any("the download failed" in note for note in data.notes)


def test_damaged_cifar10_is_said(offline: Path) -> None:
    folder = offline / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"half")
    message = error_of(load_data, "cifar10")
    assert f"{folder} is damaged or incomplete" in message
    data = load_data("auto")
    assert data.train.name == "digits"
    assert any(f"{folder} is damaged or incomplete" in note for note in data.notes)


def test_we_probe_what_torchvision_downloads() -> None:
    from torchvision.datasets import CIFAR10

    assert CIFAR10.url == data_module.CIFAR10_URL
    assert CIFAR10.base_folder == data_module.CIFAR10_FOLDER
