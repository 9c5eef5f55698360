"""Files and folders that cannot be read."""

import io
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_images import GOOD, LABELS, error_of, save_folder, save_npz, some_images
from PIL import Image

from speedtrain.data import load_data, load_images
from speedtrain.errors import UserError


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


def zip_of_photographs(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(30):
            archive.writestr(f"hat/{number}.jpg", b"")


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
    "photographs": (zip_of_photographs, "hat/4.jpg and 25 more): unpack it, and give the folder"),
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


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (load_images, "give an image file, a folder of images or an .npz"),
        (partial(load_images, need_labels=True), "give an .npz with labels, or a folder with a sub-folder per class"),
        (load_data, "give a folder, a CSV file, an .npz, torchvision:NAME, cifar10 or digits"),
    ],
)
def test_what_to_give_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[..., object], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert error_of(load, "absent") == f"absent: no such file or folder: {said}"
    os.mkfifo("pipe")
    assert error_of(load, "pipe") == f"pipe: neither a file nor a folder: {said}"
    for text in ("photographs", ""):
        Path("notes.txt").write_text(text)
        error = error_of(load, "notes.txt")
        assert error.startswith("notes.txt: neither an ")
        assert error.endswith(said)
    for address in ("https://example.org/cat.jpg", f"s3://bucket/{'long' * 99}"):
        assert error_of(load, address).endswith("addresses of the web are not read: download the file first")


def test_an_npz_without_its_suffix_is_one(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "a.npz", images=GOOD, labels=LABELS).rename(tmp_path / "a.data")
    np.testing.assert_array_equal(load_images(path)[0], GOOD)
    assert load_data(path).train.name == "a.data"
    path.write_bytes(path.read_bytes()[:-100])
    assert "not an .npz, or a truncated one" in error_of(load_data, path)


def test_a_single_image_is_not_trained_on(tmp_path: Path) -> None:
    Image.fromarray(GOOD[0]).save(tmp_path / "photo.jpg")
    said = "a single image file cannot be trained on, nor tested on: give a folder with a sub-folder per class"
    assert said in error_of(load_data, tmp_path / "photo.jpg")
    assert said in error_of(load_data, (GOOD, LABELS), tmp_path / "photo.jpg")


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
    assert "class 'b' has no training image: add some, or remove it" in error_of(load_data, folder)
    (folder / "b").rmdir()
    assert load_data(folder).train.classes == ("a", "c")
    Image.fromarray(GOOD[0]).save(folder / "loose.png")
    assert "loose.png: an image beside the class folders" in error_of(load_data, folder)


def test_a_level_too_high(tmp_path: Path) -> None:
    """`train/` alone, or with unlabelled test images, is no class."""
    save_folder(tmp_path / "x" / "Train", {"a": GOOD[:2], "b": GOOD[2:4]})
    save_folder(tmp_path / "y", {"test": GOOD[:2]})
    save_folder(tmp_path / "y" / "train", {"a": GOOD[:2], "b": GOOD[2:4]})
    alone, beside = tmp_path / "x" / "Train", tmp_path / "y" / "train"
    assert (
        error_of(load_data, alone.parent)
        == f"{alone.parent}: its only folder holds 2 folders, a/ for one: give {alone}"
    )
    message = error_of(load_data, beside.parent)
    assert message.startswith(f"{beside}: it is no class but holds class folders")
    assert message.endswith(f"give this folder, {beside}")
    for train in (alone, beside):
        assert load_data(train).train.classes == ("a", "b")


def test_a_set_in_a_folder_of_its_own(tmp_path: Path) -> None:
    """As an archive is often unpacked; one class of images in sub-folders is another thing."""
    for split in ("train", "test"):
        save_folder(tmp_path / "outer" / "set" / split, {"a": GOOD[:2], "b": GOOD[2:4]})
    message = error_of(load_data, tmp_path / "outer")
    assert message.endswith(f"its only folder holds 2 folders, test/ for one: give {tmp_path / 'outer' / 'set'}")
    assert load_data(tmp_path / "outer" / "set").train.classes == ("a", "b")
    for part in ("x", "y"):
        save_folder(tmp_path / "one" / "a", {part: GOOD[:2]})
    data = load_data(tmp_path / "outer" / "set", tmp_path / "one")
    assert data.test.labels.tolist() == [0] * 4


@pytest.mark.parametrize("names", [("Training", "Testing"), ("TRAIN", "testing"), ("training", "Valid")])
def test_splits_by_other_names(tmp_path: Path, names: tuple[str, str]) -> None:
    for split, number in zip(names, (4, 2), strict=True):
        save_folder(tmp_path / split, {"a": GOOD[:number], "b": GOOD[6 : 6 + number]})
    data = load_data(tmp_path)
    assert data.train.classes == ("a", "b")
    assert (len(data.train.images), len(data.test.images)) == (8, 4)
    if names[1] != "testing":
        assert any(f"testing on {names[1]}/" in note for note in data.notes)
    (tmp_path / names[1]).rename(tmp_path / "elsewhere")
    assert f"{tmp_path / names[0]}: it is no class but holds class folders" in error_of(load_data, tmp_path)


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    for split in ("train", "Test", "testing"):
        save_folder(tmp_path / split, {"a": GOOD[:2], "b": GOOD[2:4]})
    assert "holds Test/ and testing/, and only one of them can be used" in error_of(load_data, tmp_path)


def test_what_became_of_other_sizes_is_said_of_those_that_it_happened_to(tmp_path: Path) -> None:
    for fit, words in (("crop", "cut to their centred square and resized to"), ("squash", "squashed to")):
        folder = save_folder(tmp_path / fit, {"a": some_images(3, 40, 40, 3), "b": GOOD[:3]})
        assert f"{fit}: 3 of 6 images were resized to 32×32" in load_data(folder, fit=fit, holdout=False).notes
        Image.fromarray(some_images(1, 40, 50, 3)[0]).save(folder / "b" / "more.png")
        said = f"{fit}: 1 of 7 images were {words} 32×32, and 3 square ones resized"
        assert said in load_data(folder, fit=fit, holdout=False).notes


BAD_IMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no image"),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "damaged": lambda path: path.write_bytes(path.read_bytes()[:600] + b"\0" * 2000),
    "32-bit float": lambda path: Image.fromarray(np.ones((32, 32), np.float32)).save(path, format="TIFF"),
    "dark 32-bit integer": lambda path: Image.fromarray(np.full((32, 32), 99, np.int32)).save(path, format="TIFF"),
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
