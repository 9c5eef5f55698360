"""Photographs as people have them → what the network sees."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from labelled_images import error_of, save_folder, some_images
from PIL import Image
from sklearn.datasets import load_sample_images

from speedtrain.data import load_data, load_images
from speedtrain.data.photograph import Form, natural_side, read_photographs

PHOTOGRAPH = Image.fromarray(load_sample_images().images[1])  # 640×427
TURNS = {
    1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, -1),
}  # fmt: skip
"""EXIF orientation → how a camera of this orientation stores an upright image: the inverse of what a reader does."""


def read(path: Path, side: int | None = 32, fit: str = "crop") -> np.ndarray:
    return load_images(path, side=side, fit=fit)[0][0]


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_an_image_stands_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.zeros((64, 64, 3), np.uint8)
    upright[:32, :32], upright[:32, 32:], upright[32:, :32] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](upright)))
    stored.save(tmp_path / f"a{suffix}", exif=exif, quality=100)
    seen = read(tmp_path / f"a{suffix}").astype(int)
    expected = np.asarray(Image.fromarray(upright).resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(seen - expected).mean() < 6


def see_through(mode: str) -> Image.Image:
    """An image whose left half is opaque black and whose right half is transparent black."""
    alpha = np.zeros((32, 32), np.uint8)
    alpha[:, :16] = 255
    rgba = Image.merge("RGBA", [Image.new("L", (32, 32))] * 3 + [Image.fromarray(alpha)])
    if mode in ("RGBA", "LA", "PA"):
        return rgba.convert(mode)
    if mode == "P":
        image = Image.new("P", (32, 32), 1)
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.paste(0, (0, 0, 16, 32))
        image.info["transparency"] = bytes([255, 0])
        return image
    image = Image.new("RGB", (32, 32), (9, 9, 9))
    image.paste((0, 0, 0), (0, 0, 16, 32))
    image.info["transparency"] = (9, 9, 9)
    return image


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGBA", ".png"), ("LA", ".png"), ("P", ".png"), ("RGB", ".png"), ("RGBA", ".webp"), ("P", ".gif")],
)
def test_transparency_lies_on_white(tmp_path: Path, mode: str, suffix: str) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        image = see_through(mode)
        options = {"transparency": 1} if suffix == ".gif" else image.info
        image.save(tmp_path / name / f"1{suffix}", **options, **({"lossless": True} if suffix == ".webp" else {}))
        Image.new("RGB", (32, 32)).save(tmp_path / name / "2.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_data(tmp_path)
    seen = read(tmp_path / "a" / f"1{suffix}")
    assert (seen[:, :16] == 0).all()
    assert (seen[:, 16:] == 255).all()
    assert any("2 of 4 images have transparent parts: laid on white" in note for note in data.notes)


def test_an_opaque_alpha_channel_changes_nothing(tmp_path: Path) -> None:
    image = some_images(1)[0]
    Image.fromarray(image).convert("RGBA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), image)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    grey = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    image = Image.fromarray(grey)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode != "L":
        image = image.convert(mode)
    suffix = {"CMYK": ".tif", "YCbCr": ".jpg"}.get(mode, ".png")
    image.save(tmp_path / f"a{suffix}", **({"quality": 100} if suffix == ".jpg" else {}))
    seen = read(tmp_path / f"a{suffix}").astype(int)
    expected = np.where(grey > 127, 255, 0) if mode == "1" else grey.astype(int)
    worst = np.abs(seen.mean(2) - expected)
    assert (worst.mean() if mode == "1" else worst.max()) <= (64 if mode == "1" else 3)


def test_a_file_is_what_it_holds_whatever_it_is_called(tmp_path: Path) -> None:
    image = Image.fromarray(some_images(1)[0])
    image.save(tmp_path / "a.jpg", format="PNG")
    np.testing.assert_array_equal(read(tmp_path / "a.jpg"), np.asarray(image))
    for suffix in (".jfif", ".jpe", ".JPG"):
        image.save(tmp_path / f"b{suffix}", format="JPEG")
        assert read(tmp_path / f"b{suffix}").shape == (32, 32, 3)


@pytest.mark.parametrize("factor", [2, 6])
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("side", [32, 96, 224])
def test_a_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path: Path, factor: int, fit: str, side: int) -> None:
    large = PHOTOGRAPH.resize((640 * factor, 427 * factor), Image.Resampling.BICUBIC)
    large.save(tmp_path / "a.jpg", quality=92)
    large = Image.open(tmp_path / "a.jpg").convert("RGB")
    width, height = large.size
    if fit == "crop":
        large = large.crop(((width - height) // 2, 0, (width - height) // 2 + height, height))
    elif fit == "pad":
        canvas = Image.new("RGB", (width, width), (128, 128, 128))
        canvas.paste(large, (0, (width - height) // 2))
        large = canvas
    expected = np.asarray(large.resize((side, side), Image.Resampling.BICUBIC)).astype(int)
    difference = np.abs(read(tmp_path / "a.jpg", side, fit) - expected)
    assert difference.mean() < 1.5  # levels of 255
    assert np.percentile(difference, 99) <= 10


def test_images_of_the_side_come_through_to_the_bit(tmp_path: Path) -> None:
    images = some_images(6)
    save_folder(tmp_path, {"a": images[:3], "b": images[3:]})
    np.testing.assert_array_equal(load_images(tmp_path, side=None)[0], images)


@pytest.mark.parametrize(
    ("short_sides", "side"),
    [([8], 32), ([28] * 3, 32), ([47], 32), ([48], 48), ([64, 64, 10], 64), ([100], 64), ([3000, 4000], 64)],
)
def test_the_natural_side(short_sides: list[int], side: int) -> None:
    assert natural_side(short_sides) == side


def test_training_and_test_images_have_one_side(tmp_path: Path) -> None:
    save_folder(tmp_path / "train", {name: some_images(3, 70, 90, 3) for name in "ab"})
    save_folder(tmp_path / "test", {name: some_images(1, 200, 200, 3) for name in "ab"})
    data = load_data(tmp_path, side=None)
    assert data.train.images.shape[1:] == data.test.images.shape[1:] == (64, 64, 3)
    arrays = load_data((some_images(9, 70, 90, 3), np.arange(9) % 3), side=None)
    assert arrays.train.images.shape[1:] == (64, 64, 3)


def test_every_unreadable_file_is_named(tmp_path: Path) -> None:
    save_folder(tmp_path, {name: some_images(20) for name in "ab"})
    broken = sorted(tmp_path.glob("*/*"))[5:30]
    for path in broken[:3]:
        path.write_bytes(b"no image")
    message = error_of(load_data, tmp_path)
    assert all(str(path) in message for path in broken[:3])
    assert "more" not in message
    for path in broken[3:]:
        path.write_bytes(path.read_bytes()[:200])
    message = error_of(load_data, tmp_path)
    assert all(str(path) in message for path in broken[:20])
    assert "and 5 more" in message


def test_too_many_pixels_are_an_error_and_many_are_no_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Image.new("L", (12_000, 9_000)).save(tmp_path / "a.png")
        assert read_photographs([tmp_path / "a.png"], Form(32))[0].shape == (1, 32, 32, 3)
        Image.new("1", (20_000, 20_000)).save(tmp_path / "b.png")
        assert "20000×20000 pixels are too many" in error_of(load_images, tmp_path / "b.png")
