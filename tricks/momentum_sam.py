"""Sharpness-aware minimization along the momentum."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tricks.trick import Batch, Compute, Trick, TrickError


@dataclass
class MomentumSAM(Trick):
    """Takes the gradient a way ahead along the momentum, which leads to flat minima without a second pass.

    With the momentum v of the gradients g, over all weights θ at once (algorithm 1 of the paper):

        g = ∇L(θ − ρ v / ‖v‖₂)        v ← μ v + g

    The momentum is the trick's own, so that it goes with any optimizer. The weights are restored exactly. A step costs
    what a plain one does, and a copy of the weights and of the momentum in memory.

    Args:
        rho: ρ, how far, in the Euclidean norm of all weights together. Default: 0.3.
        momentum: μ, at least 0 and below 1. Default: 0.9.
    """

    rho: float = 0.3
    momentum: float = 0.9

    interacts: ClassVar[str] = (
        "sam: use only one of the two. meta_warmup: by default, each of its passes computes its gradient at the "
        "shifted weights. gradient_centralization: by default, the momentum adds up the gradients before they are "
        "centralized."
    )
    paper: ClassVar[str] = "Becker et al., Momentum-SAM, 2024 (arXiv 2401.12033)"

    def __post_init__(self) -> None:
        if not 0 < self.rho < float("inf"):
            raise TrickError(f"rho must be positive and finite, got {self.rho}")
        if not 0 <= self.momentum < 1:
            raise TrickError(f"momentum must be at least 0 and below 1, got {self.momentum}")
        self._velocity: dict[int, Tensor] = {}

    def gradient(self, compute: Compute, model: nn.Module) -> Compute:
        def ahead(batch: Batch) -> Tensor:
            # by their number: which of them train may change from step to step
            training = {n: p for n, p in enumerate(model.parameters()) if p.requires_grad}
            for number, parameter in training.items():
                self._velocity.setdefault(number, torch.zeros_like(parameter))
            parameters: list[Tensor] = list(training.values())
            velocity = [self._velocity[number] for number in training]
            with torch.no_grad():
                before = [parameter.clone() for parameter in parameters]
                norm = torch.stack(torch._foreach_norm(velocity)).norm()
                torch._foreach_add_(parameters, torch._foreach_mul(velocity, -self.rho / (norm + 1e-12)))
            loss = compute(batch)
            with torch.no_grad():
                torch._foreach_copy_(parameters, before)
                torch._foreach_mul_(velocity, self.momentum)
                torch._foreach_add_(velocity, [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])
            return loss

        return ahead

    def state(self) -> dict[str, Any]:
        return {"velocity": {number: velocity.clone() for number, velocity in self._velocity.items()}}

    def load_state(self, state: dict[str, Any]) -> None:
        self._velocity = {number: velocity.clone() for number, velocity in state["velocity"].items()}
