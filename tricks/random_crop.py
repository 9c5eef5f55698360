"""Random crops."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tricks.trick import Batch, Trick, TrickError


@dataclass
class RandomCrop(Trick):
    """Shifts each image by a few random pixels: pads it by reflection, then crops it to its old size.

    Each image has its own offset, uniform over all possible. Images too small to reflect that far are
    padded as far as they can be, by one pixel less than their side.

    Args:
        padding: pixels added at each border.
    """

    padding: int = 4

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
        # as rows of pixels, channels last, one index does for all channels
        pixels = images.permute(0, 2, 3, 1).reshape(-1, channels)
        cropped = pixels.index_select(0, index.flatten()).view(count, height, width, channels)
        return batch._replace(images=cropped.permute(0, 3, 1, 2))

    def _source(self, count: int, side: int, device: torch.device) -> Tensor:
        """Where in an image of this side each pixel of `count` crops comes from, [count, side]."""
        padding = min(self.padding, side - 1)
        shift = torch.randint(-padding, padding + 1, (count, 1), device=device)
        position = (shift + torch.arange(side, device=device)).abs()  # reflects at the first pixel
        return side - 1 - (side - 1 - position).abs()  # and at the last
