"""Muon."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tricks.trick import Trick, TrickError


@dataclass
class Muon(Trick):
    """Updates convolutions by an orthogonal matrix, so that all directions of the momentum count the same.

    For every convolution's weight W, flattened to a matrix [outputs, inputs·k·k], with gradient G:

        M ← μ M + G        O = NewtonSchulz(G + μ M)        W ← (1 − η·decay) W − η √max(1, rows/columns) O

    O approximates U Vᵀ for the singular value decomposition U S Vᵀ of its argument, by a few steps of
    X ← a X + b (X Xᵀ) X + c (X Xᵀ)² X. Without Nesterov momentum the argument is M. All other parameters stay with
    the optimizer that was given.

    Args:
        lr: learning rate η of the convolutions. Default: 0.1.
        momentum: μ, at least 0 and below 1. Default: 0.6.
        nesterov: whether to look ahead by one step of momentum. Default: True.
        steps: number of Newton–Schulz iterations. Default: 5.
        weight_decay: decoupled weight decay, relative to the learning rate. Default: 0.0.
    """

    lr: float = 0.1
    momentum: float = 0.6
    nesterov: bool = True
    steps: int = 5
    weight_decay: float = 0.0

    interacts: ClassVar[str] = (
        "Learning rate, momentum and weight decay of the other optimizer do not act on convolutions. "
        "patch_whitening: Muon trains its 1×1 convolution; nothing trains its fixed filters. "
        "gradient_centralization acts before Muon."
    )
    paper: ClassVar[str] = "Jordan et al., Muon: An Optimizer for Hidden Layers in Neural Networks, 2024"

    def __post_init__(self) -> None:
        if not 0 < self.lr < float("inf"):
            raise TrickError(f"lr must be positive and finite, got {self.lr}")
        if not 0 <= self.momentum < 1:
            raise TrickError(f"momentum must be at least 0 and below 1, got {self.momentum}")
        if not self.steps >= 1:
            raise TrickError(f"steps must be at least 1, got {self.steps}")
        if not 0 <= self.weight_decay < float("inf"):
            raise TrickError(f"weight_decay must be at least 0 and finite, got {self.weight_decay}")

    def step(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> torch.optim.Optimizer:
        # also where a weight is computed from a parameter, as in mirror_equivariance
        of_convolutions = (p for m in model.modules() if isinstance(m, nn.Conv2d) for p in m.parameters())
        weights = {parameter for parameter in of_convolutions if parameter.requires_grad and parameter.ndim > 1}
        taken = []
        for group in optimizer.param_groups:
            taken += [parameter for parameter in group["params"] if parameter in weights]
            group["params"] = [parameter for parameter in group["params"] if parameter not in weights]
        if not taken:
            raise TrickError("muon finds no convolution to train in this network")
        return MuonOptimizer(
            taken,
            optimizer,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            steps=self.steps,
            weight_decay=self.weight_decay,
        )


class MuonOptimizer(torch.optim.Optimizer):
    """Muon for convolutions, in the first parameter groups, and another optimizer for the groups after them."""

    def __init__(self, convolutions: list[nn.Parameter], others: torch.optim.Optimizer, **hyperparameters: Any) -> None:
        super().__init__(convolutions, hyperparameters)
        self.others = others
        self.param_groups += others.param_groups
        self.state.update(others.state)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        muon = [group for group in self.param_groups if "steps" in group]
        rest = [group for group in self.param_groups if "steps" not in group]
        # load_state_dict replaces both, so give the other optimizer the current ones
        self.others.param_groups, self.others.state = rest, self.state
        self.others.step()
        for group in muon:
            same_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    same_shape[weight.shape].append(weight)
            for weights in same_shape.values():
                self._update(weights, group)
        return loss

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """One step of weights of the same shape, as one batch of matrices."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        for weight in weights:
            if "momentum" not in self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        moving = [self.state[weight]["momentum"] for weight in weights]
        torch._foreach_mul_(moving, group["momentum"])
        torch._foreach_add_(moving, gradients)
        directions = list(moving)
        if group["nesterov"]:
            directions = list(torch._foreach_add(gradients, moving, alpha=group["momentum"]))
        matrices = torch.stack([direction.flatten(1) for direction in directions])
        rows, columns = matrices.shape[1:]
        updates = orthogonalize(matrices, group["steps"]) * max(1, rows / columns) ** 0.5
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, list(updates.reshape(-1, *weights[0].shape)), alpha=-group["lr"])


def orthogonalize(matrices: Tensor, steps: int) -> Tensor:
    """Approximately the nearest (semi-)orthogonal matrix of each in [N, rows, columns], by Newton–Schulz.

    The coefficients are chosen for speed: they drive all singular values quickly to about 0.7 … 1.2. The iteration
    runs in bfloat16 on GPUs that have it, and wherever autocast uses it; it is robust to that precision. Otherwise it
    runs in float32, never in float16.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).float()  # the smaller side first: less to multiply
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # the iteration needs singular values of at most 1
    device = x.device.type
    autocast_bf16 = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) is torch.bfloat16
    if autocast_bf16 or (x.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)):
        x = x.bfloat16()
    with torch.autocast(device, enabled=False):
        for _ in range(steps):
            gram = x @ x.mT
            polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            x = torch.baddbmm(x, polynomial, x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)
