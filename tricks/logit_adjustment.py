"""Logit adjustment."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tricks.trick import Loss, Trick, TrickError, class_counts


@dataclass
class LogitAdjustment(Trick):
    """Makes up for classes of unequal size, by adding their frequency to the logits of training.

    With logits f and the share π of each class among the training images (equation 10 of the paper):

        loss(f + τ log π, target)

    The loss is then low where the network is right although the class is rare. Predictions use f alone, which for τ = 1
    aims at the balanced accuracy.

    Args:
        tau: τ, at least 0. Default: 1.0.
    """

    tau: float = 1.0

    interacts: ClassVar[str] = (
        "label_smoothing: leave it out. It gives every class the same small target. Together with the adjustment, this "
        "raises rare classes on all images (5 points worse at 60 s, classes of 500 to 5 images). class_weights also "
        "compensates for unequal classes: use only one of the two."
    )
    paper: ClassVar[str] = "Menon et al., Long-tail Learning via Logit Adjustment, 2020 (arXiv 2007.07314)"

    def __post_init__(self) -> None:
        if not 0 <= self.tau < float("inf"):
            raise TrickError(f"tau must be at least 0 and finite, got {self.tau}")
        self._labels: Tensor | None = None

    def data(self, images: Tensor, labels: Tensor) -> None:
        self._labels = labels

    def loss(self, loss: Loss) -> Loss:
        added: Tensor | None = None

        def adjusted(logits: Tensor, targets: Tensor) -> Tensor:
            nonlocal added
            if added is None:
                counts = class_counts(self._labels, logits, "logit_adjustment")
                added = self.tau * (counts / counts.sum()).log()
            return loss(logits + added, targets)

        return adjusted
