"""Meta-learning warm-up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tricks.trick import Batch, Compute, Trick, TrickError, frozen_statistics, parameters_with_gradient


@dataclass
class MetaWarmup(Trick):
    """Starts with steps that improve one half of the batch in a way that also improves the other half.

    The two halves of the batch are two tasks with losses L₁ and L₂. A step on the first task must help with the
    second. The trick minimises

        L₁(θ) + L₂(θ′)        θ′ = θ − α ∇L₁(θ)

    with the gradient

        ∇L₁(θ) + ∇L₂(θ′) − α H₁ ∇L₂(θ′)

    where H₁ is the Hessian of L₁ at θ. The first-order form leaves out the last term. The second-order form finds it
    by central differences (section 2.3 of DARTS, Liu et al., arXiv 1806.09055), with v = ∇L₂(θ′) and ε = 0.01 / ‖v‖₂:

        H₁ v ≈ (∇L₁(θ + ε v) − ∇L₁(θ − ε v)) / 2ε

    This needs only gradients, so it works with mixed precision, distributed training and other tricks. In bfloat16
    the small difference is noisy.

    The second order is for smooth networks. Within ε the gradient must change smoothly: with tanh and mean pooling in
    place of ReLU and max-pooling, H₁ v of an untrained ResNet-9 (width 8, 16 images, float32) is right to 4 %. ReLU and
    max-pooling have kinks. In the ResNet-9 here, H₁ v is off by 7 times its own size, with CELU by 4 times, and a
    smaller ε makes that worse: leave `first_order` on.

    Only the first pass, at θ, updates batch norm's running statistics. The weights are restored exactly. The loss
    reported is L₁(θ). In first order a step costs as much as a plain step on the batch, in second order twice as much.

    Args:
        alpha: size α of the step on the first half. Default: 0.01.
        fraction: progress at which the warm-up ends, 0 to 1. Default: 0.2.
        first_order: whether to leave out the term with the Hessian. Default: True.
    """

    alpha: float = 0.01
    fraction: float = 0.2
    first_order: bool = True

    interacts: ClassVar[str] = (
        "Batch norm normalises half batches, and ghost_batch_norm normalises groups of half the size. cutmix and mixup "
        "mix images of one half with images of the other half. sam: by default, each pass of the warm-up becomes two "
        "passes. gradient_centralization: by default, only the final gradient is centralized."
    )
    paper: ClassVar[str] = (
        "Deng & Zhang, Is the Meta-Learning Idea Able to Improve the Generalization of Deep Neural Networks "
        "on the Standard Supervised Learning?, 2020 (arXiv 2002.12455)"
    )

    def __post_init__(self) -> None:
        if not 0 < self.alpha < float("inf"):
            raise TrickError(f"alpha must be positive and finite, got {self.alpha}")
        if not 0 <= self.fraction <= 1:
            raise TrickError(f"fraction must lie between 0 and 1, got {self.fraction}")

    def gradient(self, compute: Compute, model: nn.Module) -> Compute:
        def meta(batch: Batch) -> Tensor:
            if batch.progress >= self.fraction or len(batch.images) < 2:
                return compute(batch)
            half = len(batch.images) // 2
            first = batch._replace(images=batch.images[:half], targets=batch.targets[:half])
            second = batch._replace(images=batch.images[half:], targets=batch.targets[half:])

            loss = compute(first)
            parameters = parameters_with_gradient(model)
            before = [parameter.detach().clone() for parameter in parameters]
            inner = _gradients(parameters)

            def gradients_at(direction: Sequence[Tensor], scale: float | Tensor, task: Batch) -> list[Tensor]:
                """Gradients of the task's loss at θ + scale · direction."""
                with torch.no_grad():
                    torch._foreach_add_(parameters, [scale * tensor for tensor in direction])
                with frozen_statistics(model):
                    compute(task)
                with torch.no_grad():
                    torch._foreach_copy_(parameters, before)
                return _gradients(parameters)

            outer = gradients_at(inner, -self.alpha, second)
            torch._foreach_add_(inner, outer)
            if not self.first_order:
                epsilon = 0.01 / (torch.stack(torch._foreach_norm(outer)).norm() + 1e-12)
                ahead = gradients_at(outer, epsilon, first)
                behind = gradients_at(outer, -epsilon, first)
                torch._foreach_sub_(ahead, behind)
                torch._foreach_mul_(ahead, self.alpha / (2 * epsilon))
                torch._foreach_sub_(inner, ahead)
            for parameter, gradient in zip(parameters, inner, strict=True):
                parameter.grad = gradient
            return loss

        return meta


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Copies of the gradients, since the next pass overwrites them."""
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
