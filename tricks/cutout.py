"""Cutout."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tricks.trick import Batch, Trick, TrickError, pixels


@dataclass
class Cutout(Trick):
    """Blanks one square of each image, so that no single part of it decides.

    The square is filled with zeros, the mean colour. Its centre is uniform over the image, and the part beyond the
    borders is cut off, as in the paper.

    Args:
        size: side of the square in pixels of a 32-pixel image; the same share of a larger one. Default: 8.
    """

    size: int = 8

    interacts: ClassVar[str] = (
        "progressive_resizing shrinks the images after cutout, so `size` is a share of the full-sized image. cutmix "
        "and mixup also copy blanked squares. When they mix the targets, a blanked square counts like any other part "
        "of the image."
    )
    paper: ClassVar[str] = "DeVries & Taylor, Improved Regularization with Cutout, 2017 (arXiv 1708.04552)"

    def __post_init__(self) -> None:
        if not self.size >= 1:
            raise TrickError(f"size must be at least 1, got {self.size}")

    def batch(self, batch: Batch) -> Batch:
        images = batch.images
        count, _, height, width = images.shape
        rows = self._covered(count, height, images.device)
        columns = self._covered(count, width, images.device)
        kept = ~(rows[:, None, :, None] & columns[:, None, None, :])
        return batch._replace(images=images * kept)

    def _covered(self, count: int, side: int, device: torch.device) -> Tensor:
        """True where the square of each image covers a position along one axis, bool [count, side]."""
        size = pixels(self.size, side)
        start = torch.randint(side, (count, 1), device=device) - size // 2
        position = torch.arange(side, device=device)
        return (start <= position) & (position < start + size)
