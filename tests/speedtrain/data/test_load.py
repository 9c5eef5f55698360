"""What comes through: from files, folders and arrays to images and labels."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from labelled_images import GOOD, LABELS, error_of, save_folder, save_npz, some_images, some_labels
from PIL import Image

from speedtrain.data import load_data, load_images


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
    """Names, not the order of the names: an .npz may number them as it likes; numbers in names sort as numbers."""
    shapes = some_images(4)
    train = save_npz(tmp_path / "t.npz", images=some_images(8), labels=some_labels(8, 2), classes=["dog", "cat"])
    test = save_folder(tmp_path / "test", {"cat": shapes[:1], "dog": shapes[1:3]})
    assert load_data(train, test).test.labels.tolist() == [1, 0, 0]

    numbers = {str(number): some_images(1, seed=1 + number) for number in range(11)}
    test = save_folder(tmp_path / "numbers", numbers)
    data = load_data((some_images(22), some_labels(22, 11)), test)
    assert data.test.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
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
