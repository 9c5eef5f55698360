"""Anti-aliased pooling."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tricks.surgery import replace_modules
from tricks.trick import Trick, TrickError

HEIGHT, WIDTH = 2, 3
"""Dimensions of feature maps [B, C, H, W]."""


class MaxBlurPool2d(nn.Module):
    """The maxima over 2×2 positions at every position, a blur, and of that every second position.

    At the edges, the nearest maximum stands for those outside.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C, ⌊H / 2⌋, ⌊W / 2⌋]: of an odd side, the last row or column is left over."""
        for dim in (HEIGHT, WIDTH):
            length = maps.shape[dim] // 2 * 2
            maps = torch.maximum(maps.narrow(dim, 0, length - 1), maps.narrow(dim, 1, length - 1))
        for dim in (HEIGHT, WIDTH):
            maps = _blurred(maps, dim)
        return maps


def _blurred(maps: Tensor, dim: int) -> Tensor:
    """Along one dimension of length 2 n − 1, every second position and its neighbours, weighted by 1/2 and 1/4:
    length n."""
    positions = torch.arange(maps.shape[dim], device=maps.device)
    centres, between = maps.index_select(dim, positions[::2]), maps.index_select(dim, positions[1::2])
    before = torch.cat([centres.narrow(dim, 0, 1), between], dim)
    after = torch.cat([between, centres.narrow(dim, -1, 1)], dim)
    return (before + 2 * centres + after) / 4


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
