"""Near-copies across the holdout, and classes that are each other's mirror image."""

from collections.abc import Callable

import numpy as np
import pytest
from labelled_images import some_images
from PIL import Image, ImageDraw

from speedtrain.data import Images, load_data
from speedtrain.data.near_copies import mirrored_classes


def scene(seed: int, side: int = 64) -> Image.Image:
    """A picture of a few coloured boxes."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side), tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        corner, size = rng.integers(0, side, 2), rng.integers(8, side // 2, 2)
        draw.rectangle((*corner, *(corner + size)), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


def scenes(count: int, first: int = 0) -> np.ndarray:
    return np.stack([np.asarray(scene(first + seed)) for seed in range(count)])


def cut(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC, (0, 0, 63, 63)))


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "brighter": lambda image: np.clip(image * 0.9 + 20, 0, 255).astype(np.uint8),
    "cut": cut,
    "mirrored": lambda image: image[:, ::-1],
    "noise": lambda image: np.clip(image + np.random.default_rng(0).normal(0, 8, image.shape), 0, 255).astype(np.uint8),
}


def notes_on(train: np.ndarray, test: np.ndarray) -> list[str]:
    data = load_data((train, np.arange(len(train)) % 2), (test, np.arange(len(test)) % 2), side=64)
    return [note for note in data.notes if "look almost the same" in note]


def test_what_helps_is_said_where_it_helps() -> None:
    train = np.repeat(scenes(20), 6, axis=0)
    labels = np.arange(len(train)) % 2
    train[::2] = [CHANGES["brighter"](image) for image in train[::2]]
    train += np.arange(len(train), dtype=np.uint8)[:, None, None, None] % 6  # near-copies, not copies
    (note,) = (note for note in load_data((train, labels), side=64).notes if "look almost the same" in note)
    assert note.endswith("better than it is; a table's group column keeps such images together")
    (note,) = notes_on(train, train[:20] // 2)
    assert note.endswith("the accuracy may look better than it is")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_near_copies_are_counted_and_shown(change: Callable[[np.ndarray], np.ndarray]) -> None:
    train, test = scenes(60), scenes(30, first=1000)
    assert notes_on(train, test) == []
    test[[3, 7]] = change(train[40]), change(train[50])
    (note,) = notes_on(train, test)
    assert note.startswith("2 of 30 test images")
    assert any(f"test image {test} and training image {train}" in note for test, train in ((3, 40), (7, 50)))


def test_a_few_copies_among_many_images_are_chance() -> None:
    train, test = scenes(60), some_images(300, 64, 64, 3)
    test[[3, 7]] = train[[40, 50]] // 2
    assert notes_on(train, test) == []
    test[[4, 8]] = train[[41, 51]] // 2
    assert len(notes_on(train, test)) == 1


def arrow(seed: int, *, mirrored: bool) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (64, 64), tuple(rng.integers(120, 256, 3).tolist()))
    draw, colour = ImageDraw.Draw(image), tuple(rng.integers(0, 120, 3).tolist())
    (x, y), length = rng.integers(8, 20, 2), rng.integers(28, 40)
    draw.rectangle((x, y + 8, x + length - 8, y + 14), fill=colour)
    draw.polygon([(x + length - 10, y), (x + length - 10, y + 22), (x + length, y + 11)], fill=colour)
    pixels = np.asarray(image.resize((32, 32)))
    return pixels[:, ::-1] if mirrored else pixels


def labelled(images: list[np.ndarray], labels: list[int], *classes: str) -> Images:
    return Images("a", np.stack(images), np.array(labels), classes)


def test_arrows_to_both_sides_are_mirror_images() -> None:
    arrows = [arrow(seed, mirrored=seed % 2 == 1) for seed in range(120)]
    boxes = [np.asarray(scene(seed, 32)) for seed in range(60)]
    images = labelled([*arrows, *boxes], [*(seed % 2 for seed in range(120)), *[2] * 60], "right", "left", "boxes")
    assert mirrored_classes(images) == [("right", "left")]


def test_classes_that_a_mirror_does_not_change_are_none() -> None:
    arrows = [arrow(seed, mirrored=seed % 2 == 1) for seed in range(120)]
    dark = [image // 2 if place < 60 else image for place, image in enumerate(arrows)]
    assert mirrored_classes(labelled(dark, [0] * 60 + [1] * 60, "dark", "bright")) == []


def test_digits_are_none_though_a_mirrored_2_resembles_a_5() -> None:
    assert mirrored_classes(load_data("digits").train) == []


def test_few_images_or_many_classes_are_not_compared() -> None:
    arrows = [arrow(seed, mirrored=seed % 2 == 1) for seed in range(18)]
    assert mirrored_classes(labelled(arrows, [seed % 2 for seed in range(18)], "right", "left")) == []
    images = some_images(300, 8, 8, 3)
    assert mirrored_classes(Images("a", images, np.arange(300), tuple(map(str, range(300))))) == []
