"""Mixup."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from tricks.beta import sample_beta
from tricks.trick import Batch, Trick, TrickError, class_probabilities


@dataclass
class Mixup(Trick):
    """Trains on blends of two images and of their targets, so that the network behaves linearly between them.

    Each batch has one λ. Each image x is paired with a random image x̃ of the batch (section 2 of the paper):

        λ ~ Beta(α, α)        x′ = λ x + (1 − λ) x̃        y′ = λ y + (1 − λ) ỹ

    Targets become class probabilities, so the batch must give the number of classes.

    Args:
        alpha: α; small values leave most batches nearly unmixed, 1 makes λ uniform. Default: 0.2.
    """

    alpha: float = 0.2

    interacts: ClassVar[str] = (
        "label_smoothing smooths the mixed targets once more. cutmix: mixup blends the pasted images again. "
        "meta_warmup splits the batch after the pairs are made, so both halves may show the same image."
    )
    paper: ClassVar[str] = "Zhang et al., mixup: Beyond Empirical Risk Minimization, 2017 (arXiv 1710.09412)"

    def __post_init__(self) -> None:
        if not 0 < self.alpha < float("inf"):
            raise TrickError(f"alpha must be positive and finite, got {self.alpha}")

    def batch(self, batch: Batch) -> Batch:
        images, targets = batch.images, class_probabilities(batch, self.name())
        share = sample_beta(self.alpha, 1, images.device).squeeze()
        partner = torch.randperm(len(images), device=images.device)
        return batch._replace(
            images=share * images + (1 - share) * images[partner],
            targets=share * targets + (1 - share) * targets[partner],
        )
