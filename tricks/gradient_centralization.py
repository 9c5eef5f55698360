"""Gradient centralization."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tricks.trick import Batch, Compute, Trick


@dataclass
class GradientCentralization(Trick):
    """Subtracts the mean from the gradient of each output's weights.

    For every weight of more than one dimension and each slice i along its first (equation 1 of the paper):

        ∇L(wᵢ) ← ∇L(wᵢ) − mean(∇L(wᵢ))

    SGD and Muon then leave the sum of an output's weights unchanged, except for weight decay.
    """

    interacts: ClassVar[str] = (
        "muon: its update of a centralized gradient has mean zero too. sam and meta_warmup: by default only the "
        "final gradient is centralized, not those of their extra passes."
    )
    paper: ClassVar[str] = "Yong et al., Gradient Centralization, 2020 (arXiv 2004.01461)"

    def gradient(self, compute: Compute, model: nn.Module) -> Compute:
        def centralized(batch: Batch) -> Tensor:
            loss = compute(batch)
            with torch.no_grad():
                gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
                for gradient in gradients:
                    if gradient.ndim > 1:
                        gradient -= gradient.mean(dim=tuple(range(1, gradient.ndim)), keepdim=True)
            return loss

        return centralized
