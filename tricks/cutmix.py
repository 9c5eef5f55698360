"""CutMix."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tricks.beta import sample_beta
from tricks.trick import Batch, Trick, TrickError, class_probabilities


@dataclass
class Cutmix(Trick):
    """Pastes a rectangle of another image into an image, and mixes their targets by area.

    Each image x is paired with a random image x̃ of the same batch. Each pair has a λ and a rectangle of its own
    (equations 1 and 2 of the paper). The rectangle has √(1 − λ) of the image's height and width. Its centre is
    uniform over the image, and the part beyond the borders is cut off.

        λ ~ Beta(α, α)        x′ = M ⊙ x + (1 − M) ⊙ x̃        y′ = m y + (1 − m) ỹ

    M is zero inside the rectangle and one elsewhere, and m is its mean: the share of x that is left. Targets become
    class probabilities, so the batch must give the number of classes.

    Args:
        alpha: α; 1 makes λ uniform. Default: 1.0.
        probability: share of the images that are cut into, 0 to 1. Default: 0.5.
        until: progress at which cutmix ends, 0 to 1; later steps see whole images. Default: 1.0.
    """

    alpha: float = 1.0
    probability: float = 0.5
    until: float = 1.0

    interacts: ClassVar[str] = (
        "label_smoothing smooths the mixed targets once more. mixup blends the pasted images again. meta_warmup "
        "splits the batch after the pairs are made, so both halves may show the same image. muon: weight decay and "
        "cutmix both regularise; in single runs of 300 s, both together were not better than either alone."
    )
    paper: ClassVar[str] = "Yun et al., CutMix, 2019 (arXiv 1905.04899)"

    def __post_init__(self) -> None:
        if not 0 < self.alpha < float("inf"):
            raise TrickError(f"alpha must be positive and finite, got {self.alpha}")
        for name in ("probability", "until"):
            if not 0 <= getattr(self, name) <= 1:
                raise TrickError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")

    def batch(self, batch: Batch) -> Batch:
        if batch.progress >= self.until:
            return batch
        images, targets = batch.images, class_probabilities(batch, self.name())
        count, _, height, width = images.shape
        share = sample_beta(self.alpha, count, images.device)
        cut = torch.rand(count, device=images.device) < self.probability
        side = (1 - share).sqrt() * cut
        inside = _covered(side, height)[:, None, :, None] & _covered(side, width)[:, None, None, :]
        left = 1 - inside.float().mean(dim=(1, 2, 3))[:, None]
        partner = torch.randperm(count, device=images.device)
        return batch._replace(
            images=torch.where(inside, images[partner], images),
            targets=left * targets + (1 - left) * targets[partner],
        )


def _covered(share: Tensor, side: int) -> Tensor:
    """True where an interval around a random centre covers a position along one axis, bool [count, side]."""
    centre = torch.rand(len(share), 1, device=share.device) * side
    middles = torch.arange(side, device=share.device) + 0.5
    return (middles - centre).abs() < share[:, None] * side / 2
