"""Generalized cross-entropy."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from tricks.trick import Loss, Trick, TrickError, soft_targets


@dataclass
class GeneralizedCrossEntropy(Trick):
    """Replaces the cross-entropy by a loss that gives up on images whose label it cannot explain.

    With the probability p of the given label (equation 6 of the paper):

        (1 − p^q) / q

    It is the cross-entropy for q → 0, and the mean absolute error for q = 1, whose gradient is small where p is: wrong
    labels pull less. For a soft target it is the mean over the classes by that target.

    Args:
        q: above 0 and at most 1. Default: 0.7.
    """

    q: float = 0.7

    interacts: ClassVar[str] = (
        "It replaces the loss, so it acts before label_smoothing, logit_adjustment and class_weights, which wrap it. "
        "Learning is slower: a higher learning rate or a longer budget may be needed."
    )
    paper: ClassVar[str] = "Zhang and Sabuncu, Generalized Cross Entropy Loss, 2018 (arXiv 1805.07836)"

    def __post_init__(self) -> None:
        if not 0 < self.q <= 1:
            raise TrickError(f"q must be above 0 and at most 1, got {self.q}")

    def loss(self, loss: Loss) -> Loss:
        if loss is not F.cross_entropy:
            raise TrickError(
                "generalized_cross_entropy replaces the cross-entropy, so it must be the first trick of the loss"
            )

        def generalized(logits: Tensor, targets: Tensor) -> Tensor:
            # p^q by the logarithm, whose gradient stays finite where p is 0
            powers = (self.q * logits.log_softmax(dim=1)).exp()
            return (soft_targets(targets, logits) * (1 - powers)).sum(dim=1).mean() / self.q

        return generalized
