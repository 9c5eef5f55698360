"""Label smoothing."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tricks.trick import Loss, Trick, TrickError


@dataclass
class LabelSmoothing(Trick):
    """Spreads a little probability from the true class over all classes, against overconfidence.

    With K classes and the target distribution q (section 7 of the paper):

        q′ = (1 − s) q + s / K

    Targets may be class indices or, after cutmix or mixup, class probabilities.

    Args:
        smoothing: the probability s that is spread, at least 0 and below 1. Default: 0.1.
    """

    smoothing: float = 0.1

    interacts: ClassVar[str] = "cutmix and mixup already make the targets soft, and label smoothing then smooths these."
    paper: ClassVar[str] = "Szegedy et al., Rethinking the Inception Architecture, 2015 (arXiv 1512.00567)"

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise TrickError(f"smoothing must be at least 0 and below 1, got {self.smoothing}")

    def loss(self, loss: Loss) -> Loss:
        def smoothed(logits: Tensor, targets: Tensor) -> Tensor:
            classes = logits.shape[1]
            if not targets.is_floating_point():
                # half precision cannot tell 0.9 from 0.8984
                targets = F.one_hot(targets, classes).to(torch.promote_types(logits.dtype, torch.float32))
            return loss(logits, (1 - self.smoothing) * targets + self.smoothing / classes)

        return smoothed
