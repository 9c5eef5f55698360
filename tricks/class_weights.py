"""Class weights."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from tricks.trick import Loss, Trick, TrickError, class_counts, soft_targets


@dataclass
class ClassWeights(Trick):
    """Gives the images of rare classes more weight in the loss.

    With n images of a class, its weight is proportional to

        1 / n                      kind `inverse`
        (1 − β) / (1 − βⁿ)         kind `effective`, the effective number of images (equation 2 of the paper)

    scaled so that the mean weight of the training images is 1. The target of an image is multiplied by it: with a soft
    target q, the cross-entropy becomes −Σ w q log p. It acts outside of label_smoothing, which spreads the weighted
    target: the weight is that of the image's own class.

    Args:
        kind: inverse or effective. Default: inverse.
        beta: β, at least 0 and below 1; only for kind effective. Default: 0.999.
    """

    kind: Literal["inverse", "effective"] = "inverse"
    beta: float = 0.999

    interacts: ClassVar[str] = (
        "logit_adjustment also compensates for unequal classes: use only one of the two. label_smoothing: leave it out "
        "(10 points worse at 60 s, classes of 500 to 5 images)."
    )
    paper: ClassVar[str] = "Cui et al., Class-Balanced Loss, 2019 (arXiv 1901.05555)"

    def __post_init__(self) -> None:
        if self.kind not in ("inverse", "effective"):
            raise TrickError(f"kind must be inverse or effective, got {self.kind!r}")
        if not 0 <= self.beta < 1:
            raise TrickError(f"beta must be at least 0 and below 1, got {self.beta}")
        self._labels: Tensor | None = None

    def data(self, images: Tensor, labels: Tensor) -> None:
        self._labels = labels

    def loss(self, loss: Loss) -> Loss:
        weights: Tensor | None = None

        def weighted(logits: Tensor, targets: Tensor) -> Tensor:
            nonlocal weights
            if weights is None:
                weights = self._weights(class_counts(self._labels, logits, "class_weights"))
            return loss(logits, soft_targets(targets, logits) * weights)

        return weighted

    def _weights(self, counts: Tensor) -> Tensor:
        """The weight of each class, [K]."""
        exact = counts.double()  # in float32 a β close to 1 is 1
        effective = exact if self.kind == "inverse" else (1 - self.beta**exact) / (1 - self.beta)
        return (exact.sum() / (exact / effective).sum() / effective).to(counts.dtype)
