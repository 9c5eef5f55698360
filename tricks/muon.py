"""Muon."""

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
    the optimizer that was given. A convolution's columns may come in any order: the one in memory is the fastest.

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
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)
        return loss

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        """One step of a weight. It passes over each large tensor as few times as it can: that is half of its time."""
        gradient, state = weight.grad, self.state[weight]
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        moving: Tensor = state["momentum"]
        torch.add(gradient, moving, alpha=group["momentum"], out=moving)
        precision = precision_for(weight)
        if group["nesterov"]:
            direction = torch.empty_like(moving, dtype=precision)
            torch.add(gradient, moving, alpha=group["momentum"], out=direction)
        else:
            direction = moving.to(precision)
        axes = list(range(weight.ndim))
        if weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last):
            axes = [0, 2, 3, 1]
        last = direction.permute(axes)
        matrix = last.flatten(1)
        rows, columns = matrix.shape
        orthogonal = orthogonalize(matrix, group["steps"], -group["lr"] * max(1, rows / columns) ** 0.5)
        back = [axes.index(axis) for axis in range(weight.ndim)]
        change = orthogonal.view(last.shape).permute(back)
        torch.add(change, weight, alpha=1 - group["lr"] * group["weight_decay"], out=weight)


def precision_for(weight: Tensor) -> torch.dtype:
    """Bfloat16 on GPUs that have it, and wherever autocast uses it: the iteration is robust to it. Otherwise float32,
    never float16."""
    device = weight.device.type
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) is torch.bfloat16
    native = weight.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if autocast or native else torch.float32


COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the Newton–Schulz iteration. Chosen for speed: they drive all singular values quickly to about 0.7 … 1.2."""
AT_ONCE = {torch.bfloat16: 3, torch.float32: 5}
"""Iterations on one X Xᵀ. Its small eigenvalues are lost to rounding, and grow with every iteration."""


def orthogonalize(matrix: Tensor, steps: int, factor: float = 1.0) -> Tensor:
    """`factor` times approximately the nearest (semi-)orthogonal matrix, by Newton–Schulz.

    With G = X Xᵀ an iteration is X ← P X, where P = a I + b G + c G² is symmetric and commutes with G. So several
    iterations are one product with a small square matrix, (… P₂ P₁) X, where G ← P G P. That takes a third to two
    thirds of the multiplications of the plain iteration, for matrices with more columns than rows.

    Args:
        matrix: [rows, columns], in the precision in which it is computed.
        steps: number of iterations.
        factor: default: 1.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix  # the smaller side first: less to multiply
    first = True
    with torch.autocast(x.device.type, enabled=False):
        while steps:
            now = min(steps, AT_ONCE[x.dtype])
            steps -= now
            gram = x @ x.mT
            if first:  # the iteration needs singular values of at most 1: by the norm, whose square is the trace
                scale = 1 / (gram.diagonal().sum(dtype=torch.float32).sqrt() + 1e-7)
                gram *= scale**2
            product: Tensor | None = None
            for remaining in range(now, 0, -1):
                polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
                polynomial.diagonal().add_(a)
                product = polynomial if product is None else polynomial @ product
                if remaining > 1:
                    gram = polynomial @ gram @ polynomial
            assert product is not None
            if first:
                product *= scale
            if not steps:
                product *= factor
            x, first = product @ x, False
    return x.mT if tall else x
