"""Random crops."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tricks.trick import Batch, Trick, TrickError, pixels


@dataclass
class RandomCrop(Trick):
    """Shifts each image by a few random pixels.

    Each image is padded by reflection, then cropped to its old size at an offset of its own, uniform over all possible
    ones. A small image is padded by at most one pixel less than its side.

    Args:
        padding: pixels added at each border of a 32-pixel image; the same share of a larger one. Default: 4.
    """

    padding: int = 4

    interacts: ClassVar[str] = (
        "progressive_resizing shrinks the images after the crop, so `padding` is a share of the full-sized "
        "image. test_time_augmentation in mode mirror+shift predicts from shifted images of this kind."
    )
    paper: ClassVar[str] = "He et al., Deep Residual Learning, 2015, section 4.2 (arXiv 1512.03385)"

    def __post_init__(self) -> None:
        if not self.padding >= 1:
            raise TrickError(f"padding must be at least 1, got {self.padding}")

    def batch(self, batch: Batch) -> Batch:
        images = batch.images
        count, channels, height, width = images.shape
        rows = self._source(count, height, images.device)
        columns = self._source(count, width, images.device)
        first = torch.arange(count, device=images.device) * (height * width)
        index = first[:, None, None] + rows[:, :, None] * width + columns[:, None, :]
        # with channels last, one index serves all channels
        pixels = images.permute(0, 2, 3, 1).reshape(-1, channels)
        cropped = pixels.index_select(0, index.flatten()).view(count, height, width, channels)
        return batch._replace(images=cropped.permute(0, 3, 1, 2))

    def _source(self, count: int, side: int, device: torch.device) -> Tensor:
        """Source position of each pixel of `count` crops along one axis, int64 [count, side]."""
        padding = min(pixels(self.padding, side), side - 1)
        shift = torch.randint(-padding, padding + 1, (count, 1), device=device)
        position = (shift + torch.arange(side, device=device)).abs()  # reflects at the first pixel
        return side - 1 - (side - 1 - position).abs()  # and at the last
