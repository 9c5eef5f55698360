"""Sharpness-aware minimization."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tricks.trick import Batch, Compute, Trick, TrickError, frozen_statistics, parameters_with_gradient


@dataclass
class SAM(Trick):
    """Steps with the gradient at the worst nearby weights, which leads to flat minima.

    One ascent step goes to the edge of a ball of radius ρ around the weights θ, over all of them at once. The gradient
    is taken there (equations 2 and 3 of the paper):

        ε = ρ ∇L(θ) / ‖∇L(θ)‖₂        g = ∇L(θ + ε)

    The second pass uses the same batch and does not update batch norm's running statistics. The weights are restored
    exactly. A step costs twice as much as a plain one.

    Args:
        rho: radius ρ of the ball, in the Euclidean norm of all weights together. Default: 0.05.
        interval: apply SAM on every `interval`-th step only. Default: 1.
        start: progress at which SAM starts, 0 to 1. Default: 0.0.
    """

    rho: float = 0.05
    interval: int = 1
    start: float = 0.0

    interacts: ClassVar[str] = (
        "In a fixed time the second pass halves the epochs (−47 to −49 % at 60 s). ghost_batch_norm: both passes "
        "normalise the same groups. meta_warmup: by default each of its passes becomes two. "
        "gradient_centralization: by default the ascent uses the plain gradient."
    )
    paper: ClassVar[str] = "Foret et al., Sharpness-Aware Minimization, 2020 (arXiv 2010.01412)"

    def __post_init__(self) -> None:
        if not 0 < self.rho < float("inf"):
            raise TrickError(f"rho must be positive and finite, got {self.rho}")
        if self.interval < 1:
            raise TrickError(f"interval must be at least 1, got {self.interval}")
        if not 0 <= self.start <= 1:
            raise TrickError(f"start must lie between 0 and 1, got {self.start}")

    def gradient(self, compute: Compute, model: nn.Module) -> Compute:
        def sharpness_aware(batch: Batch) -> Tensor:
            loss = compute(batch)
            if batch.progress < self.start or batch.step % self.interval:
                return loss
            parameters = parameters_with_gradient(model)
            with torch.no_grad():
                gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
                norm = torch.stack(torch._foreach_norm(gradients)).norm()
                before = [parameter.clone() for parameter in parameters]
                torch._foreach_add_(parameters, torch._foreach_mul(gradients, self.rho / (norm + 1e-12)))
            with frozen_statistics(model):
                compute(batch)
            with torch.no_grad():
                torch._foreach_copy_(parameters, before)
            return loss

        return sharpness_aware
