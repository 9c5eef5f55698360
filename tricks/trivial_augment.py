"""TrivialAugment: one random operation on each image."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tricks.trick import Batch, Trick, TrickError

MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("brightness", "colour", "contrast", "sharpness")
OPERATIONS = ("identity", *MOVES, *BLENDS, "posterize", "solarize", "autocontrast", "equalize")

FARTHEST = 0.99  # shear, and how far a blend goes
TURN = 135 * math.pi / 180  # radians
BITS = 6  # of 8 that posterize takes away at most
GREY = (0.299, 0.587, 0.114)  # red, green, blue, as in Pillow's "L"


@dataclass
class TrivialAugment(Trick):
    """Changes each image by one random operation, by a random magnitude.

    The operations and their ranges are those of the paper's "wide" space. The magnitude m is uniform from -1 to 1,
    times `strength`. Colours lie between 0 and 1, the smallest and the largest value of each channel in the training
    images.

        identity                        nothing changes
        shear_x, shear_y                each row, or column, is shifted by 0.99 m times its distance from the centre
        translate_x, translate_y        the image is shifted by m times its side
        rotate                          the image is turned by 135 m degrees
        brightness, colour, contrast,   y + (1 + 0.99 m) (x - y), where y is black, the grey image, its mean, or the
        sharpness                       smoothed image
        posterize                       6 |m| of the 8 bits are taken away
        solarize                        what is lighter than 1 - |m| is inverted
        autocontrast                    each channel is stretched to the whole range
        equalize                        the values of each channel become equally frequent

    Each batch is divided at random into equal parts, one for each operation. What an image leaves empty gets the mean
    colour, as with `random_crop`.

    A network needs many epochs to profit from it (docs/experiments.md).

    Args:
        strength: largest magnitude, above 0 and up to 1, the paper's. Default: 1.0.
    """

    strength: float = 1.0

    interacts: ClassVar[str] = (
        "random_crop and random_resized_crop move the images too. cutmix, cutout and mixup also make the images "
        "harder. Leave it out if images that are turned, shifted or recoloured would be of another class."
    )
    paper: ClassVar[str] = "Müller & Hutter, TrivialAugment, 2021 (arXiv 2103.10158)"

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise TrickError(f"strength must lie above 0 and up to 1, got {self.strength}")
        self._range: tuple[Tensor, Tensor] | None = None

    def data(self, images: Tensor, labels: Tensor) -> None:
        low, high = images.amin((0, 2, 3)), images.amax((0, 2, 3))
        self._range = low.view(1, -1, 1, 1), (high - low).clamp(min=1e-6).view(1, -1, 1, 1)

    def batch(self, batch: Batch) -> Batch:
        if self._range is None:
            raise TrickError(
                "trivial_augment: call data() before the first step; it takes the range of colours from it"
            )
        images = batch.images
        low, span = (each.to(images) for each in self._range)
        order = torch.randperm(len(images), device=images.device)
        magnitudes = self.strength * (2 * torch.rand(len(images), device=images.device) - 1)
        # a small batch does not have all operations: which ones changes from step to step
        first = int(torch.randint(len(OPERATIONS), ()))
        operations = OPERATIONS[first:] + OPERATIONS[:first]
        parts = dict(zip(operations, order.tensor_split(len(operations)), strict=True))
        mean = (-low / span).clamp(0, 1)
        changed = images.clone()
        for names, change in CHANGES.items():
            counts = [len(parts[name]) for name in names]
            if sum(counts):
                chosen = torch.cat([parts[name] for name in names])
                colours = ((images[chosen] - low) / span).clamp(0, 1)
                changed[chosen] = change(colours, magnitudes[chosen], counts, mean) * span + low
        return batch._replace(images=changed)


def moved(images: Tensor, magnitudes: Tensor, counts: Sequence[int], empty: Tensor) -> Tensor:
    """So many images of each of `MOVES`, square, [B, C, S, S]; `empty` is the colour of what an image leaves empty."""
    # where in the image each pixel comes from, with the sides from -1 to 1
    places = torch.eye(2, 3, device=images.device, dtype=images.dtype).repeat(len(images), 1, 1)
    entries = ((0, 1, FARTHEST), (1, 0, FARTHEST), (0, 2, 2.0), (1, 2, 2.0))
    *plain, turned = places.split(list(counts))
    *their_magnitudes, turns = magnitudes.split(list(counts))
    for part, magnitude, (row, column, most) in zip(plain, their_magnitudes, entries, strict=True):
        part[:, row, column] = most * magnitude
    cosine, sine = (TURN * turns).cos(), (TURN * turns).sin()
    turned[:, 0, 0], turned[:, 0, 1], turned[:, 1, 0], turned[:, 1, 1] = cosine, -sine, sine, cosine
    grid = F.affine_grid(places, list(images.shape), align_corners=False)
    return F.grid_sample(images - empty, grid, align_corners=False) + empty


def blended(images: Tensor, magnitudes: Tensor, counts: Sequence[int], empty: Tensor) -> Tensor:
    """So many images of each of `BLENDS`, between 0 and 1: each moves towards or away from another image."""
    bright, coloured, contrasted, sharp = images.split(list(counts))
    others = (
        torch.zeros_like(bright),
        grey(coloured).expand_as(coloured),
        grey(contrasted).mean((2, 3), keepdim=True).expand_as(contrasted),
        smoothed(sharp),
    )
    factor = (1 + FARTHEST * magnitudes).view(-1, 1, 1, 1)
    return torch.lerp(torch.cat(others), images, factor).clamp(0, 1)


def grey(images: Tensor) -> Tensor:
    """[B, C, H, W] → [B, 1, H, W]."""
    if images.shape[1] != len(GREY):
        return images.mean(1, keepdim=True)
    red, green, blue = images.split(1, dim=1)
    return GREY[0] * red + GREY[1] * green + GREY[2] * blue


def smoothed(images: Tensor) -> Tensor:
    """The mean of each pixel, which counts five times, and its neighbours, as Pillow's SMOOTH; the border stays."""
    result = images.clone()
    inside = images[:, :, 1:-1, 1:-1]
    result[:, :, 1:-1, 1:-1] = (9 * F.avg_pool2d(images, 3, stride=1) + 4 * inside) / 13
    return result


def posterized(images: Tensor, magnitudes: Tensor, counts: Sequence[int], empty: Tensor) -> Tensor:
    """Images between 0 and 1 with fewer of their 8 bits."""
    step = 2 ** (BITS * magnitudes.abs()).round().view(-1, 1, 1, 1)
    return ((255 * images).round() / step).floor() * step / 255


def solarized(images: Tensor, magnitudes: Tensor, counts: Sequence[int], empty: Tensor) -> Tensor:
    """Images between 0 and 1 whose lightest values are inverted."""
    return torch.where(images >= 1 - magnitudes.abs().view(-1, 1, 1, 1), 1 - images, images)


def autocontrasted(images: Tensor, magnitudes: Tensor, counts: Sequence[int], empty: Tensor) -> Tensor:
    """Images whose channels reach from 0 to 1; a channel of one value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / (high - low).clamp(min=1e-6), images)


def equalized(images: Tensor, magnitudes: Tensor, counts: Sequence[int], empty: Tensor) -> Tensor:
    """Images between 0 and 1 whose channels have equally many pixels of each value, as Pillow does it."""
    values = (255 * images).round().long().flatten(2)
    pixels = torch.zeros(*values.shape[:2], 256, dtype=torch.int32, device=images.device)
    pixels.scatter_add_(2, values, torch.ones_like(values, dtype=pixels.dtype))
    lightest = pixels.gather(2, values.amax(2, keepdim=True))  # which do not count
    step = (values.shape[2] - lightest) // 255
    table = ((pixels.cumsum(2) - pixels + step // 2) // step.clamp(min=1)).clamp(max=255) / 255
    equal = table.gather(2, values).view_as(images).to(images)
    return torch.where(step.unsqueeze(3) > 0, equal, images)


CHANGES: dict[tuple[str, ...], Callable[[Tensor, Tensor, Sequence[int], Tensor], Tensor]] = {
    MOVES: moved,
    BLENDS: blended,
    ("posterize",): posterized,
    ("solarize",): solarized,
    ("autocontrast",): autocontrasted,
    ("equalize",): equalized,
}
"""How the images of these operations change: (images between 0 and 1, magnitudes, number of images of each operation,
mean colour) → changed images. Those of one entry change together, which takes a GPU less time."""
