"""One image file of every kind, against Pillow's plain decode and colours known beforehand."""

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_images import error_of, save_folder, some_images
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from speedtrain.data import image_files, load_data, load_images
from speedtrain.data.photograph import FITS, Fit, facts_of, large_images_allowed, natural_side, read_image

RED, GREEN, BLUE, GREY = (200, 30, 30), (30, 200, 30), (30, 30, 200), (128, 128, 128)
QUARTERS = Image.new("RGB", (60, 40))
for _corner, _colour in (((0, 0), RED), ((30, 0), GREEN), ((0, 20), BLUE), ((30, 20), GREY)):
    QUARTERS.paste(_colour, (*_corner, _corner[0] + 30, _corner[1] + 20))


def plain(path: Path, side: int, how: Fit) -> np.ndarray:
    """The image fitted from a plain decode of the whole."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    if how == "pad":
        return np.asarray(ImageOps.contain(image, (side, side), Image.Resampling.BICUBIC))
    if how == "crop":
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        image = image.crop((left, top, left + short, top + short))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


def read(path: Path, **options: Any) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_images(path, **options)[0][0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("shape", [(60, 40), (61, 40), (600, 400)])
def test_orientation_is_obeyed(tmp_path: Path, orientation: int, suffix: str, shape: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    QUARTERS.resize(shape).save(tmp_path / f"a.{suffix}", exif=exif)
    for how in ("crop", "squash"):
        found = read(tmp_path / f"a.{suffix}", fit=how).astype(int)
        difference = abs(found - plain(tmp_path / f"a.{suffix}", 32, how))
        assert difference.max() <= (0 if max(shape) < 100 or suffix != "jpg" else 12)
        assert difference.mean() < 1


def test_orientation_behind_the_pixels_of_a_png(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    QUARTERS.save(tmp_path / "before.png", exif=exif)
    QUARTERS.save(tmp_path / "behind.png")
    content = (tmp_path / "behind.png").read_bytes()
    (tmp_path / "behind.png").write_bytes(content[:-12] + chunk(b"eXIf", exif.tobytes()[6:]) + content[-12:])
    np.testing.assert_array_equal(read(tmp_path / "behind.png"), read(tmp_path / "before.png"))
    assert abs(read(tmp_path / "behind.png")[2, 2].astype(int) - BLUE).max() == 0


def test_the_size_of_a_png_is_read_without_its_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file may hold pixels beyond all memory."""
    decoded = []
    monkeypatch.setattr(PngImageFile, "load", lambda image: decoded.append(image.size))
    Image.new("1", (17000, 16000)).save(tmp_path / "bomb.png")
    Image.new("1", (300, 200)).save(tmp_path / "small.png")
    assert facts_of(tmp_path / "small.png").size == (300, 200)
    assert "17000×16000 pixels, more than 268 million" in error_of(load_images, tmp_path / "bomb.png")
    with large_images_allowed():
        image = Image.open(tmp_path / "bomb.png")
    with image, pytest.raises(ValueError, match="more than 268 million"):
        read_image(image)
    assert not decoded


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("size", [32, 2100])
def test_transparency_lies_on_white(tmp_path: Path, mode: str, size: int) -> None:
    image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    image.paste((90, 90, 90, 255), (0, 0, size, size // 2))
    if mode == "P":
        palette = Image.new("P", (size, size), 1)
        palette.putpalette([90, 90, 90, 0, 0, 0])
        palette.paste(0, (0, 0, size, size // 2))
        palette.save(tmp_path / "a.png", transparency=b"\xff\x00")
    else:
        image.convert(mode).save(tmp_path / "a.png")
    found = read(tmp_path / "a.png")
    assert np.all(found[:14] == 90)
    assert np.all(found[18:] == 255)


def chunk(name: bytes, content: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(path: Path, depth: int, colour: int, row: bytes, transparent: bytes) -> None:
    """A PNG of 32 equal rows, with a transparent colour."""
    header = struct.pack(">IIBBBBB", 32, 32, depth, colour, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * 32)
    parts = chunk(b"IHDR", header) + chunk(b"tRNS", transparent) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent", "left"),
    [
        (1, 0, b"\xff\xff\0\0", b"\0\0", 255),
        (2, 0, b"\x55" * 4 + b"\0" * 4, b"\0\0", 85),
        (2, 0, b"\x55" * 4 + b"\xaa" * 4, b"\0\2", 85),
        (4, 0, b"\x55" * 8 + b"\x22" * 8, b"\0\2", 85),
        (8, 0, b"\x55" * 16 + b"\x22" * 16, b"\0\x22", 85),
        (16, 0, b"\x55\0" * 16 + b"\x22\1" * 16, b"\x22\1", 85),
        (8, 2, b"\x55" * 48 + b"\x22" * 48, b"\0\x22" * 3, 85),
        (16, 2, b"\x55\0" * 48 + b"\x22\1" * 48, b"\x22\1" * 3, 85),
    ],
)
def test_a_transparent_colour_lies_on_white(
    tmp_path: Path, depth: int, colour: int, row: bytes, transparent: bytes, left: int
) -> None:
    png(tmp_path / "a.png", depth, colour, row, transparent)
    found = read(tmp_path / "a.png")
    assert np.all(found[:, :16] == left)
    assert np.all(found[:, 16:] == 255)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, GREEN)]
    for suffix in ("gif", "webp", "tif"):
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
        assert abs(read(tmp_path / f"a.{suffix}").astype(int) - RED).max() <= 4


@pytest.mark.parametrize(
    ("name", "format"),
    [
        *[(name, "JPEG") for name in ("a.jfif", "a.JPE", "a", "a.dat", "a.png")],
        *[("a", name) for name in ("PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000")],
    ],
)
def test_files_go_by_content(tmp_path: Path, name: str, format: str) -> None:
    folder = save_folder(tmp_path / "set", {"x": some_images(2), "y": some_images(2, seed=1)})
    Image.new("RGB", (32, 32), RED).save(folder / "x" / name, format=format)
    (folder / "x" / "notes").write_text("BMW, RIFFs and GIFs")
    (folder / "x" / "empty").touch()
    images, labels, _ = load_images(folder)
    assert labels is not None
    assert labels.tolist() == [0, 0, 0, 1, 1]
    assert abs(images[:3].astype(int) - RED).max((1, 2, 3)).min() <= 5
    assert abs(read(folder / "x" / name).astype(int) - RED).max() <= 5


def test_heic_without_the_plug_in_is_one_clear_line(tmp_path: Path) -> None:
    try:
        import pillow_heif  # noqa: F401
    except ImportError:
        (tmp_path / "a.heic").write_bytes(struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(99))
        assert "HEIC needs a plug-in: pip install pillow-heif" in error_of(load_images, tmp_path / "a.heic")


def test_cmyk_jpeg_of_adobe_and_of_others(tmp_path: Path) -> None:
    image = Image.new("CMYK", (32, 32), (0, 200, 200, 20))
    image.save(tmp_path / "adobe.jpg")
    content = (tmp_path / "adobe.jpg").read_bytes()
    start = content.index(b"\xff\xeeX\0\x0eAdobe"[:2] + b"\0\x0eAdobe")
    # without Adobe's mark the values are not negatives
    (tmp_path / "other.jpg").write_bytes(content[:start] + content[start + 16 :])
    red = np.asarray(image.convert("RGB"))[0, 0].astype(int)
    assert abs(read(tmp_path / "adobe.jpg") - red).max() <= 4
    inverted = np.asarray(Image.new("CMYK", (1, 1), (255, 55, 55, 235)).convert("RGB"))[0, 0].astype(int)
    assert abs(read(tmp_path / "other.jpg") - inverted).max() <= 4


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize("side", [32, 96])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_large_image_is_that_of_a_plain_decode(tmp_path: Path, how: Fit, side: int, suffix: str) -> None:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    coarse.resize((2803, 2101), Image.Resampling.BICUBIC).save(tmp_path / f"a.{suffix}", compress_level=1)
    found, expected = read(tmp_path / f"a.{suffix}", side=side, fit=how), plain(tmp_path / f"a.{suffix}", side, how)
    top = (side - expected.shape[0]) // 2
    found = found[top : top + expected.shape[0]]
    difference = abs(found.astype(int) - expected)
    # at the edges, the plain decode does not see what lies beyond its crop; the reduced pixels have a little of it
    assert difference[1:-1, 1:-1].max() <= 3
    assert difference.mean() < 0.8


def test_hundred_megapixels(tmp_path: Path) -> None:
    Image.new("P", (16000, 12000), 3).save(tmp_path / "a.png", compress_level=1)
    Image.new("L", (16000, 12000), 3).save(tmp_path / "b.jpg")
    assert np.all(read(tmp_path / "b.jpg") == 3)
    assert read(tmp_path / "a.png").shape == (32, 32, 3)
    assert Image.MAX_IMAGE_PIXELS is not None


def test_fits(tmp_path: Path) -> None:
    QUARTERS.save(tmp_path / "a.png")
    padded = read(tmp_path / "a.png", side=60, fit="pad")
    np.testing.assert_array_equal(padded[10:50], np.asarray(QUARTERS))
    mean = np.asarray(QUARTERS).mean((0, 1))
    assert abs(padded[:10].astype(float) - mean).max() <= 0.5
    assert abs(padded[50:].astype(float) - mean).max() <= 0.5
    squashed = read(tmp_path / "a.png", side=40, fit="squash")
    assert tuple(squashed[2, 2]) == RED
    assert tuple(squashed[-3, -3]) == GREY
    assert "fit: 'stretch' given" in error_of(load_images, tmp_path / "a.png", fit="stretch")
    assert "side: 0 given" in error_of(load_images, tmp_path / "a.png", side=0)


@pytest.mark.parametrize(
    ("short", "side"), [(8, 32), (47, 32), (48, 48), (63, 48), (100, 64), (191, 64), (224, 64), (3000, 64)]
)
def test_natural_side(tmp_path: Path, short: int, side: int) -> None:
    assert natural_side([(9999, short), (short, short), (5, 5), (short, 9999), (9999, 9999)]) == side
    images = some_images(3, short, 2 * short) if short < 1000 else None
    if images is not None:
        save_folder(tmp_path / "train", {"a": images, "b": images})
        save_folder(tmp_path / "test", {"a": some_images(1, 20, 20), "b": some_images(1, 20, 20)})
        data = load_data(tmp_path, side=None)
        assert data.side == side
        assert data.train.images.shape == (6, side, side, 3)
        assert data.test.images.shape == (2, side, side, 3)
        assert data.train.files == ("a/0000.png", "a/0001.png", "a/0002.png", *(f"b/000{n}.png" for n in range(3)))
        assert load_data((images, np.array([0, 0, 1])), (images[:2], np.array([0, 1])), side=None).side == side


@pytest.mark.parametrize(
    ("core_seconds", "side", "expected"),
    [(None, None, 64), (image_files.LEAST * 10, None, 64), (image_files.LEAST * 9, None, 32), (0.0, 64, 64)],
)
def test_a_short_budget_keeps_photographs_at_32_pixels_and_says_so(
    tmp_path: Path, core_seconds: float | None, side: int | None, expected: int
) -> None:
    save_folder(tmp_path / "set", {"a": some_images(5, 70, 70, 3), "b": some_images(5, 70, 70, 3, seed=1)})
    data = load_data(tmp_path / "set", side=side, core_seconds=core_seconds)
    assert data.side == expected
    assert any("core-seconds are short for 10 images" in note for note in data.notes) == (expected == 32)


@pytest.mark.parametrize("suffix", ["tif", "png"])
@pytest.mark.parametrize("depth", [8, 10, 12, 16])
def test_grey_files_of_more_than_8_bits_are_read_as_arrays_are(tmp_path: Path, suffix: str, depth: int) -> None:
    """By the largest value of all; test images by what was white in training; `predict` too."""
    values = np.random.default_rng(0).integers(0, 2**depth, (12, 32, 32)).astype(np.uint16)
    values[0, 0, 0] = 2**depth - 1
    values[1] >>= 2  # one that is dark by itself
    for place, pixels in enumerate(values):
        (tmp_path / "set" / "ab"[place % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "set" / "ab"[place % 2] / f"{place:02}.{suffix}")
    labels = np.arange(12) % 2
    files = load_data(tmp_path / "set", holdout=False, side=32)
    arrays = load_data((values, labels), holdout=False, side=32)
    order = np.argsort(labels, kind="stable")
    np.testing.assert_array_equal(files.train.images, arrays.train.images[order])
    assert files.train.pixel_max == arrays.train.pixel_max == 2**depth - 1
    note = f"12 of 12 images have more than 8 bits, from 0 to {2**depth - 1}, converted to 8"
    assert any(note in each for each in files.notes)
    items = [(Image.fromarray(pixels), int(label)) for pixels, label in zip(values, labels, strict=True)]
    np.testing.assert_array_equal(load_data(items, holdout=False, side=32).train.images, arrays.train.images)

    pinned = load_data(tmp_path / "set", holdout=False, side=32, pixel_max=65535)
    np.testing.assert_array_equal(pinned.train.images, np.rint(values[order, ..., None] * (255 / 65535)).repeat(3, -1))
    if depth > 8:
        message = error_of(load_data, tmp_path / "set", side=32, pixel_max=255)
        assert f"values up to {2**depth - 1}, and 255 is white" in message
    (dark,) = load_images(tmp_path / "set" / "b" / f"01.{suffix}", side=32, pixel_max=2**depth - 1)[0]
    np.testing.assert_array_equal(dark, arrays.train.images[1])


def test_colour_of_16_bits_is_told(tmp_path: Path) -> None:
    for place in range(4):
        (tmp_path / "ab"[place % 2]).mkdir(exist_ok=True)
        png(tmp_path / "ab"[place % 2] / f"{place}.png", 16, 2, b"\x55\0" * 96, b"\0\0" * 3)
    notes = load_data(tmp_path, holdout=False, side=32).notes
    assert any("4 of 4 images have 16 bits a colour, of which the upper 8 were taken" in note for note in notes)
