"""Folders in the layouts that people have."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from labelled_images import error_of, save_folder, some_images
from PIL import Image

from speedtrain.cli import main
from speedtrain.data import load_data, load_images
from speedtrain.data.load import read_images

TWO = {"a": some_images(6), "b": some_images(6, seed=1)}


@pytest.mark.parametrize("test", ["test", "Test", "val", "valid", "Validation"])
@pytest.mark.parametrize("train", ["train", "TRAIN"])
def test_splits_by_name_in_any_case(tmp_path: Path, train: str, test: str) -> None:
    save_folder(tmp_path / train, TWO)
    save_folder(tmp_path / test, {name: images[:2] for name, images in TWO.items()})
    data = load_data(tmp_path)
    assert not data.test_is_holdout
    assert (len(data.train.labels), len(data.test.labels)) == (12, 4)
    assert test == "test" or any(f"testing on {test}/" in note for note in data.notes)


def test_with_validation_and_test_the_test_is_scored(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("validation", 3), ("test", 2)):
        save_folder(tmp_path / split, {name: images[:count] for name, images in TWO.items()})
    data = load_data(tmp_path)
    assert (len(data.train.labels), len(data.test.labels)) == (12, 4)
    assert any("testing on test/; validation/ is not used" in note for note in data.notes)


def test_images_in_sub_folders_belong_to_the_class(tmp_path: Path) -> None:
    save_folder(tmp_path, TWO)
    save_folder(tmp_path / "a" / "2023", {"summer": some_images(3, seed=2)})
    images, labels, classes = load_images(tmp_path)
    assert labels is not None
    assert (classes, np.bincount(labels).tolist()) == (("a", "b"), [9, 6])
    names = read_images(tmp_path).files
    assert names is not None
    assert len(names) == len(images)
    assert names[6] == "a/2023/summer/0000.png"
    data = load_data(tmp_path)
    assert any("3 images in sub-folders of class folders belong to the class" in note for note in data.notes)


def test_images_beside_class_folders_have_no_labels(tmp_path: Path) -> None:
    save_folder(tmp_path, {"10": some_images(1), "2": some_images(2, seed=1), "2/deeper": some_images(1, seed=2)})
    assert load_images(tmp_path, need_labels=True)[2] == ("2", "10")
    Image.fromarray(some_images(1, seed=3)[0]).save(tmp_path / "x.png")
    found = read_images(tmp_path)
    assert found.files == ("x.png", "2/0000.png", "2/0001.png", "2/deeper/0000.png", "10/0000.png")
    assert (found.labels, found.classes) == (None, None)
    np.testing.assert_array_equal(found.images[0], some_images(1, seed=3)[0])
    for refused in (error_of(load_images, tmp_path, need_labels=True), error_of(load_data, tmp_path)):
        assert "x.png: an image beside the class folders belongs to no class" in refused


@pytest.mark.parametrize(
    "litter", ["__MACOSX", "Thumbs.db", "@eaDir", "lost+found", "$RECYCLE.BIN", ".ipynb_checkpoints", ".DS_Store"]
)
def test_litter_is_no_class(tmp_path: Path, litter: str) -> None:
    save_folder(tmp_path, TWO)
    for folder in (tmp_path, tmp_path / "a"):
        if litter.endswith((".db", "Store")):
            (folder / litter).write_bytes(b"x")
        else:
            save_folder(folder, {litter: some_images(1)})
    data = load_data(tmp_path)
    assert data.train.classes == ("a", "b")
    assert len(data.train.labels) + len(data.test.labels) == 12


def test_numbers_sort_as_numbers(tmp_path: Path) -> None:
    save_folder(tmp_path, {str(number): some_images(2, seed=number) for number in range(12)})
    images, labels, classes = load_images(tmp_path)
    assert classes == tuple(map(str, range(12)))
    assert labels is not None
    for number in range(12):  # as in an .npz without names
        np.testing.assert_array_equal(images[labels == number], some_images(2, seed=number))


def test_files_keep_the_order_of_earlier_runs(tmp_path: Path) -> None:
    save_folder(tmp_path, TWO)
    (tmp_path / "a" / "0001.png").rename(tmp_path / "a" / "10.png")
    (tmp_path / "a" / "0002.png").rename(tmp_path / "a" / "2.png")
    names = read_images(tmp_path).files
    assert names is not None
    assert names[:6] == ("a/0000.png", "a/0003.png", "a/0004.png", "a/0005.png", "a/10.png", "a/2.png")


def test_two_spellings_of_an_accent_are_one_name(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    save_folder(tmp_path / "train", {"tea": some_images(4), composed: some_images(4, seed=1)})
    save_folder(tmp_path / "test", {"tea": some_images(1, seed=2), decomposed: some_images(2, seed=3)})
    data = load_data(tmp_path)
    assert data.train.classes == data.test.classes == (composed, "tea")
    assert np.bincount(data.test.labels).tolist() == [2, 1]
    save_folder(tmp_path / "train", {decomposed: some_images(3, seed=4)})
    assert np.bincount(load_data(tmp_path).train.labels).tolist() == [7, 4]


@pytest.mark.parametrize("where", ["class", "file"])
def test_a_name_that_is_not_utf_8_is_one_line_that_can_be_printed(
    tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_folder(tmp_path, TWO)
    odd = os.fsencode(tmp_path) + (b"/caf\xe9" if where == "class" else b"/a/caf\xe9.png")
    try:
        os.mkdir(odd) if where == "class" else os.link(tmp_path / "a" / "0000.png", odd)
    except OSError:
        pytest.skip("this file system takes no such name")
    assert "is not UTF-8" in error_of(load_data, tmp_path)
    assert main(["--budget", "5", "--data", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    error.encode()
    assert error.count("\n") == 1
    assert r"caf\xe9" in error


def test_names_of_files_go_where_their_images_go(tmp_path: Path) -> None:
    save_folder(tmp_path, TWO)
    data = load_data(tmp_path)
    for part in (data.train, data.test):
        assert part.files is not None
        for name, image in zip(part.files, part.images, strict=True):
            np.testing.assert_array_equal(load_images(tmp_path / name)[0][0], image)
    assert set(data.train.files or ()) | set(data.test.files or ()) == set(read_images(tmp_path).files or ())
    assert load_data((TWO["a"], np.arange(6) % 2)).train.files is None
