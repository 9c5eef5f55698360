"""Images that look alike: near-copies of training images among the test images, and classes that are mirror images.

Images are compared by the cosine of their pixels, reduced to GRID × GRID in colour and less the mean of the image. Of
300 photographs cut by up to 5 % at each side and made brighter or darker, 49 % are found at LIKE; among 5,000 test
images of CIFAR-10, three are taken for copies; among 341 photographs of clothing, none. The usual perceptual hash (64
bits of horizontal gradients) found as many of the copies only together with a tenth of the clothing.
"""

from collections.abc import Iterable

import numpy as np
from PIL import Image

from speedtrain.data.source import Images

GRID = 16
LIKE = 0.97
"""Cosine from which one image is taken for a copy of another."""
MANY = 0.01
"""Share of the test images from which it is said: a few always look like another image."""
SAMPLE = 1000
"""Test images that are compared with the training images, and rows of a product of matrices."""

PER_CLASS = 200
"""Images of a class that are compared with their mirror images, and fewer with many classes."""
MIRRORED = 2000
"""Images of all classes that are compared with their mirror images."""
FEWEST = 10
"""Images that a class needs to be compared."""
DEVIATIONS = 4.0
"""Standard errors by which mirror images must be nearer to the other class."""
AS_GOOD = 0.2
"""Share of a class whose mirror images are as near to the other class as the images are to their own; half of them
where one class is exactly the mirror of the other."""


def notes_on_near_copies(train: Images, test: Images) -> list[str]:
    """What is to be said of test images that are nearly the same as a training image, or as its mirror image.

    Of more than SAMPLE test images, as many are compared, evenly spaced.
    """
    places = np.arange(min(SAMPLE, len(test.images))) * len(test.images) // min(SAMPLE, len(test.images))
    seen = _pixels(test.images[place] for place in places)
    nearest, likeness = np.zeros(len(seen), np.int64), np.full(len(seen), -1.0, np.float32)
    for first in range(0, len(train.images), SAMPLE):
        known = _pixels(train.images[first : first + SAMPLE])
        cosines = np.maximum(seen @ known.T, seen @ _mirrored(known).T)
        best = cosines.max(1)
        nearest = np.where(best > likeness, first + cosines.argmax(1), nearest)
        likeness = np.maximum(likeness, best)
    count = int((likeness >= LIKE).sum())
    if count < max(2, MANY * len(seen)):
        return []
    found = likeness.argmax()
    pair = " and ".join(
        repr(part.files[place]) if part.files else f"{side} image {place}"
        for side, part, place in (("test", test, places[found]), ("training", train, nearest[found]))
    )
    return [
        f"{count} of {len(seen)} test images look almost the same as a training image ({pair} for one): "
        "the accuracy may look better than it is"
    ]


def mirrored_classes(images: Images) -> list[tuple[str, str]]:
    """Pairs of classes of which each looks like the other's mirror image, such as left and right hands, or b and d.

    The mirror images of each class must be nearer to the other class than to their own, by more than chance, and as
    near as the images themselves are to their own class.
    """
    num_classes = len(images.classes)
    per_class = min(PER_CLASS, MIRRORED // num_classes)
    if per_class < FEWEST:
        return []
    rng = np.random.default_rng(0)
    members = [rng.permutation(np.flatnonzero(images.labels == label))[:per_class] for label in range(num_classes)]
    labels = np.repeat(np.arange(num_classes), [len(some) for some in members])
    pixels = _pixels(images.images[place] for place in np.concatenate(members))
    upright, mirrored = _nearness(pixels, pixels, labels), _nearness(_mirrored(pixels), pixels, labels)

    def is_mirror(own: int, other: int) -> bool:
        rows = labels == own
        if rows.sum() < FEWEST:
            return False
        gain = (upright[rows, own] - upright[rows, other]) - (mirrored[rows, own] - mirrored[rows, other])
        error = gain.std() / np.sqrt(len(gain))
        as_good = (mirrored[rows, other] >= upright[rows, own]).mean()
        return bool(gain.mean() > DEVIATIONS * error and as_good >= AS_GOOD)

    return [
        (images.classes[one], images.classes[other])
        for one in range(num_classes)
        for other in range(one + 1, num_classes)
        if is_mirror(one, other) and is_mirror(other, one)
    ]


def _nearness(seen: np.ndarray, known: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cosine of each image with the nearest of each class, the image at its own place left out: [N, K]."""
    cosines = seen @ known.T
    np.fill_diagonal(cosines, -2)
    return np.stack([cosines[:, labels == label].max(1) for label in range(labels.max() + 1)], 1)


def _pixels(images: Iterable[np.ndarray]) -> np.ndarray:
    """N images uint8 [H, W, 3] → float32 [N, GRID · GRID · 3] of mean 0 and length 1; 0 for an image of one colour."""
    small = np.stack(
        [np.asarray(Image.fromarray(image).resize((GRID, GRID), Image.Resampling.BOX)) for image in images]
    )
    flat = small.reshape(len(small), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _mirrored(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(-1, GRID, GRID, 3)[:, :, ::-1].reshape(len(pixels), -1)
