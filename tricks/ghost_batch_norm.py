"""Ghost batch norm."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tricks.surgery import replace_modules
from tricks.trick import Trick, TrickError


class GhostBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that normalises each of `splits` groups of a training batch by itself."""

    def __init__(self, num_features: int, splits: int = 16, **options: Any) -> None:
        super().__init__(num_features, **options)
        self.splits = splits

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        groups = input.chunk(self.splits)
        if input.shape[2:].numel() == 1:  # one pixel of one image has no variance: at least two images per group
            groups = input.tensor_split(max(1, min(self.splits, len(input) // 2)))
        mean, var, momentum = None, None, 0.0
        if self.track_running_stats:
            mean, var, batches = self.running_mean, self.running_var, self.num_batches_tracked
            assert batches is not None
            batches.add_(1)
            momentum = 1 / int(batches) if self.momentum is None else self.momentum
            momentum = 1 - (1 - momentum) ** (1 / len(groups))  # so that all groups together weigh `momentum`
        return torch.cat([F.batch_norm(g, mean, var, self.weight, self.bias, True, momentum, self.eps) for g in groups])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, splits={self.splits}"


@dataclass
class GhostBatchNorm(Trick):
    """Normalises small groups of a batch separately: the noise of small batches at the speed of large ones.

    In training each group g of the batch has its own mean μ and variance σ² per channel (algorithm 1 of the paper):

        y = γ (x − μ_g) / √(σ_g² + ε) + β

    Every group updates the running statistics, with a momentum such that a batch has its usual weight.
    Prediction uses plain batch norm.

    Args:
        splits: number of groups of equal size in a batch; fewer if the batch has fewer images. Default: 16.
        scale: whether to learn the scale γ; if not, γ is 1. Default: True.
    """

    splits: int = 16
    scale: bool = True

    interacts: ClassVar[str] = (
        "meta_warmup computes on half batches, so each group has half as many images. The extra passes of sam and "
        "meta_warmup are also normalised by groups, but they do not change the running statistics."
    )
    paper: ClassVar[str] = "Hoffer et al., Train Longer, Generalize Better, 2017 (arXiv 1705.08741)"

    def __post_init__(self) -> None:
        if not self.splits >= 1:
            raise TrickError(f"splits must be at least 1, got {self.splits}")

    def model(self, model: nn.Module) -> nn.Module:
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        if not norms:
            raise TrickError("ghost_batch_norm finds no nn.BatchNorm2d to replace in this network")
        return replace_modules(model, {norm: self.ghost(norm) for norm in norms})

    def ghost(self, norm: nn.BatchNorm2d) -> nn.Module:
        """The ghost batch norm that replaces `norm`, with the same parameters and statistics."""
        ghost = GhostBatchNorm2d(
            norm.num_features,
            self.splits,
            eps=norm.eps,
            momentum=norm.momentum,
            affine=norm.affine,
            track_running_stats=norm.track_running_stats,
        ).train(norm.training)
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(ghost, name, getattr(norm, name))
        if not self.scale and ghost.affine:
            nn.init.ones_(ghost.weight)
            ghost.weight.requires_grad_(False)
        # a batch norm with modules inside, such as timm's, applies them (an activation) after itself
        inside = list(norm.children())
        return nn.Sequential(ghost, *inside) if inside else ghost
