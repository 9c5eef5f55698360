"""Random crops of random size and shape."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from tricks.trick import Batch, Trick, TrickError


@dataclass
class RandomResizedCrop(Trick):
    """Cuts a random rectangle out of each image and resizes it to the whole, bilinearly.

    The rectangle's share of the area is uniform from `scale` to 1, and the logarithm of its aspect ratio is uniform
    from -log(`ratio`) to log(`ratio`). A rectangle that is longer than the image is cut off at the image's side. Its
    place is uniform within the image.

    Args:
        scale: smallest share of the area, above 0 and up to 1. Default: 0.35.
        ratio: largest aspect ratio, 1 or more. Default: 1.33.
    """

    scale: float = 0.35
    ratio: float = 1.33

    interacts: ClassVar[str] = (
        "random_crop shifts the images as well: take one of the two. progressive_resizing shrinks the images after "
        "the crop. cutout blanks a square of the crop."
    )
    paper: ClassVar[str] = "Szegedy et al., Going Deeper with Convolutions, 2014, section 6 (arXiv 1409.4842)"

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 1:
            raise TrickError(f"scale must lie above 0 and up to 1, got {self.scale}")
        if not 1 <= self.ratio < math.inf:
            raise TrickError(f"ratio must be 1 or more, and finite, got {self.ratio}")

    def batch(self, batch: Batch) -> Batch:
        images = batch.images
        count, device = len(images), images.device
        area = self.scale + (1 - self.scale) * torch.rand(count, device=device)
        aspect = (math.log(self.ratio) * (2 * torch.rand(count, device=device) - 1)).exp()
        # shares of the image's height and width; a square image keeps its aspect
        sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).clamp(max=1)
        # grid_sample counts from -1 to 1
        centres = (2 * torch.rand(count, 2, device=device) - 1) * (1 - sides)
        transform = torch.zeros(count, 2, 3, device=device)
        transform[:, 0, 0], transform[:, 1, 1], transform[:, :, 2] = sides[:, 0], sides[:, 1], centres
        grid = F.affine_grid(transform, list(images.shape), align_corners=False)
        cropped = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return batch._replace(images=cropped.contiguous(memory_format=torch.channels_last))
