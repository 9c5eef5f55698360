"""Anti-aliased pooling."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tricks.surgery import replace_modules
from tricks.trick import Trick, TrickError

BLUR = (0.25, 0.5, 0.25)
"""Weights of a maximum and its neighbours, in each direction."""


class MaxBlurPool2d(nn.Module):
    """The maxima over 2×2 positions at every position, a blur, and of that every second position.

    At the edges, the nearest maximum stands for those outside.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C, ⌊H / 2⌋, ⌊W / 2⌋]: of an odd side, the last row or column is left over."""
        height, width = (side // 2 * 2 for side in maps.shape[2:])
        maxima = F.max_pool2d(maps[..., :height, :width], 2, stride=1)
        weights = torch.tensor(BLUR, dtype=maps.dtype, device=maps.device)
        kernels = weights.outer(weights).expand(maps.shape[1], 1, 3, 3)
        # as a convolution of each channel: sums of slices take three to seven times as long on a CPU
        return F.conv2d(F.pad(maxima, (1, 1, 1, 1), mode="replicate"), kernels, stride=2, groups=maps.shape[1])


@dataclass
class BlurPool(Trick):
    """Blurs what max-pools pass on, so that the answer depends less on the position of an object to the pixel.

    A 2×2 max-pool takes the maxima m of 2×2 positions, and keeps every second one. Where the image moves by a pixel,
    it keeps others. Here the maxima are blurred first. In each direction:

        pooled[j] = m[2j − 1] / 4 + m[2j] / 2 + m[2j + 1] / 4

    It takes the place of 2×2 max-pools of stride 2. Strided convolutions and other pools stay as they are.

    Raises:
        TrickError: there is no such max-pool.
    """

    interacts: ClassVar[str] = (
        "test_time_augmentation: the shifted views then differ less from one another, and gain less. "
        "mirror_equivariance must come after it, as it does by default. It then needs maps of even sides, also with "
        "progressive_resizing."
    )
    paper: ClassVar[str] = "Zhang, Making Convolutional Networks Shift-Invariant Again, 2019 (arXiv 1904.11486)"

    def model(self, model: nn.Module) -> nn.Module:
        pools = [module for module in model.modules() if type(module) is nn.MaxPool2d and _halves(module)]
        if not pools:
            raise TrickError("blur_pool finds no 2×2 max-pool to replace in this network")
        return replace_modules(model, {pool: MaxBlurPool2d() for pool in pools})


def _halves(pool: nn.MaxPool2d) -> bool:
    """Whether a max-pool is over 2×2 positions, and each position is in one of them."""
    both = {(2, 2), 2}
    plain = pool.padding in (0, (0, 0)) and pool.dilation in (1, (1, 1)) and not pool.ceil_mode
    return pool.kernel_size in both and pool.stride in both and plain
