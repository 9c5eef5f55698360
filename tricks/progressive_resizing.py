"""Progressive resizing."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch.nn import functional as F

from tricks.trick import Batch, Trick, TrickError


@dataclass
class ProgressiveResizing(Trick):
    """Trains on small images first and on full-sized ones last, because small images cost less time.

    The side of the images is `scales[i]` of the full side while progress is below `until[i]`, and the last of `scales`
    after that. Each side is rounded to a multiple of 4, except the full one. Images are shrunk bilinearly with
    antialiasing.

    Args:
        scales: growing fractions of the full side, above 0 and up to 1. Default: (0.5, 0.75, 1.0).
        until: progress at which each scale but the last ends, growing from 0 to 1. Default: (0.4, 0.75).
    """

    scales: tuple[float, ...] = (0.5, 0.75, 1.0)
    until: tuple[float, ...] = (0.4, 0.75)

    interacts: ClassVar[str] = (
        "random_crop, random_resized_crop, cutout and cutmix act before it by default, on the full-sized image. "
        "patch_whitening takes its filters from full-sized images. weight_averaging: just after a change of size the "
        "average still holds batch norm statistics of the smaller images."
    )
    paper: ClassVar[str] = (
        "Howard et al., fast.ai's DAWNBench entries, 2018; "
        "after Karras et al., Progressive Growing of GANs, 2017 (arXiv 1710.10196)"
    )

    def __post_init__(self) -> None:
        if len(self.scales) != len(self.until) + 1:
            raise TrickError(
                f"scales must be one more than until, got {len(self.scales)} and {len(self.until)} of them"
            )
        if not all(0 < scale <= 1 for scale in self.scales):
            raise TrickError(f"scales must lie above 0 and up to 1, got {self.scales}")
        if not all(0 <= progress <= 1 for progress in self.until):
            raise TrickError(f"until must lie between 0 and 1, got {self.until}")
        for name, values in ("scales", self.scales), ("until", self.until):
            if not all(low < high for low, high in pairwise(values)):
                raise TrickError(f"{name} must grow, got {values}")

    def side(self, full_side: int, progress: float) -> int:
        """The side that images of side `full_side` have at this progress."""
        scale = self.scales[sum(progress >= end for end in self.until)]
        return full_side if scale == 1 else min(full_side, max(4, 4 * round(scale * full_side / 4)))

    def batch(self, batch: Batch) -> Batch:
        full = batch.images.shape[2:]
        size = tuple(self.side(side, batch.progress) for side in full)
        if size == full:
            return batch
        return batch._replace(images=F.interpolate(batch.images, size, mode="bilinear", antialias=True))
