"""Peer loss."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from tricks.trick import Batch, Loss, Trick, TrickError, class_counts


@dataclass
class PeerLoss(Trick):
    """Subtracts what the network would lose by chance, so that agreeing with noisy labels blindly gains nothing.

    With the share π of each class among the training labels (section 3 of the paper, with the expectation over peer
    labels in place of a drawn one):

        loss(f, target) − α mean(Σ πₖ min(−log pₖ, clamp))

    The second term has no lower bound without `clamp`. Its factor rises from 0 to α until the progress `ramp`, since a
    network that knows nothing yet has nothing to lose.

    Args:
        alpha: α, at least 0. Default: 0.5.
        ramp: progress at which the factor reaches α, 0 to 1. Default: 0.3.
        clamp: the most that a class may count, above 0. Default: 5.0.
    """

    alpha: float = 0.5
    ramp: float = 0.3
    clamp: float = 5.0

    interacts: ClassVar[str] = (
        "label_smoothing with a negative smoothing has nearly the same effect: use only one of the two. "
        "generalized_cross_entropy and forward_correction change only the first term of this loss."
    )
    paper: ClassVar[str] = "Liu and Guo, Peer Loss Functions, 2019 (arXiv 1910.03231)"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < float("inf"):
            raise TrickError(f"alpha must be at least 0 and finite, got {self.alpha}")
        if not 0 <= self.ramp <= 1:
            raise TrickError(f"ramp must lie between 0 and 1, got {self.ramp}")
        if not 0 < self.clamp < float("inf"):
            raise TrickError(f"clamp must be positive and finite, got {self.clamp}")
        self._labels: Tensor | None = None
        self._progress = 0.0

    def data(self, images: Tensor, labels: Tensor) -> None:
        self._labels = labels

    def batch(self, batch: Batch) -> Batch:
        self._progress = batch.progress
        return batch

    def loss(self, loss: Loss) -> Loss:
        prior: Tensor | None = None

        def against_peers(logits: Tensor, targets: Tensor) -> Tensor:
            nonlocal prior
            if prior is None:
                counts = class_counts(self._labels, logits, "peer_loss")
                prior = counts / counts.sum()
            by_chance = (prior * (-logits.log_softmax(dim=1)).clamp(max=self.clamp)).sum(dim=1).mean()
            factor = self.alpha * min(1.0, self._progress / self.ramp if self.ramp else 1.0)
            return loss(logits, targets) - factor * by_chance

        return against_peers

    def state(self) -> dict[str, Any]:
        return {"progress": self._progress}

    def load_state(self, state: dict[str, Any]) -> None:
        self._progress = state["progress"]
