"""Label smoothing."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tricks.trick import Loss, Trick, TrickError, soft_targets


@dataclass
class LabelSmoothing(Trick):
    """Spreads a little probability from the true class over all classes, against overconfidence.

    With K classes and the target distribution q (section 7 of the paper):

        q′ = (1 − s) q + s / K

    Targets may be class indices or, after cutmix or mixup, class probabilities. A negative s sharpens: where many
    labels are wrong, it keeps the network from fitting them (Wei et al., arXiv 2106.04149).

    Args:
        smoothing: the probability s that is spread, at least −6 and below 1. Default: 0.1.
    """

    smoothing: float = 0.1

    interacts: ClassVar[str] = (
        "cutmix and mixup already make the targets soft, and label smoothing then smooths these. logit_adjustment and "
        "class_weights: leave label smoothing out."
    )
    paper: ClassVar[str] = "Szegedy et al., Rethinking the Inception Architecture, 2015 (arXiv 1512.00567)"

    def __post_init__(self) -> None:
        if not -6 <= self.smoothing < 1:  # the least that the paper tries
            raise TrickError(f"smoothing must be at least -6 and below 1, got {self.smoothing}")

    def loss(self, loss: Loss) -> Loss:
        def smoothed(logits: Tensor, targets: Tensor) -> Tensor:
            soft = soft_targets(targets, logits)
            mass = soft.sum(dim=1, keepdim=True)  # 1, or the weight that class_weights gave the image
            return loss(logits, (1 - self.smoothing) * soft + (self.smoothing / logits.shape[1]) * mass)

        return smoothed
