"""Random horizontal flips."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from tricks.trick import Batch, Trick, TrickError


@dataclass
class Flip(Trick):
    """Mirrors random images left to right.

    Each image is mirrored by itself, with the given probability.

    Args:
        probability: probability that an image is mirrored, 0 to 1. Default: 0.5.
    """

    probability: float = 0.5

    interacts: ClassVar[str] = (
        "test_time_augmentation mirrors images for prediction. Both suppose that mirroring does not change the class."
    )
    paper: ClassVar[str] = "Krizhevsky et al., ImageNet Classification with Deep CNNs, 2012, section 4.1"

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise TrickError(f"probability must lie between 0 and 1, got {self.probability}")

    def batch(self, batch: Batch) -> Batch:
        images = batch.images
        mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < self.probability
        return batch._replace(images=torch.where(mirrored, images.flip(3), images))
