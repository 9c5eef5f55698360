"""3×3 convolutions, computed in the quickest way known for the processor: the same numbers as torch's, except for
rounding. And whether bfloat16 is quick on this processor at all."""

import time
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SMALL_MAP = 16
"""Positions of a feature map up to which a product of patches is the faster convolution in bfloat16 with AMX."""
MANY_CHANNELS = 32
"""Input times output channels over their sum, from which Winograd's algorithm is the faster one in float32 with AVX2 or
AVX-512: it saves time in proportion to the product, and its transforms cost time in proportion to the sum."""


class Conv3x3(nn.Conv2d):
    """A 3×3 convolution that keeps the side, without bias until a norm is folded into it, computed in the quickest way
    known for the processor.

    Bfloat16 on a CPU with AMX: the library's kernel computes one row of the feature map at a time, and 4 positions
    fill only a quarter of a tile. For such small feature maps a product of patches takes 0.4 to 0.8 of the time.

    Float32 on a CPU with AVX2 or AVX-512: multiplications take most of the time, and Winograd's algorithm needs a
    quarter of them. It takes 0.4 to 0.8 of the time where there are enough channels to pay for its transforms. It is
    used in training only, where batches are small, since the transforms hold the feature maps several times.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, K, H, W]."""
        if x.device.type == "cpu":
            if torch.is_autocast_enabled("cpu"):
                half = torch.get_autocast_dtype("cpu") is torch.bfloat16
                if half and x.shape[2] * x.shape[3] <= SMALL_MAP and has_amx():
                    product: Tensor = PatchProduct.apply(x.bfloat16(), self.weight.bfloat16())
                    return self._with_bias(product)
            elif self._is_for_winograd(x):
                tiled: Tensor = Winograd.apply(x, self.weight)
                return self._with_bias(tiled)
        return super().forward(x)

    def _with_bias(self, maps: Tensor) -> Tensor:
        """There is one where a norm was folded into the convolution."""
        return maps if self.bias is None else maps + self.bias.to(maps.dtype).view(-1, 1, 1)

    def _is_for_winograd(self, x: Tensor) -> bool:
        whole_tiles = x.shape[2] % 4 == 0 and x.shape[3] % 4 == 0
        many = self.in_channels * self.out_channels >= MANY_CHANNELS * (self.in_channels + self.out_channels)
        return many and whole_tiles and x.dtype is torch.float32 and torch.is_grad_enabled() and has_avx2()


@cache
def has_amx() -> bool:
    """Whether this processor multiplies bfloat16 matrices in tiles."""
    return torch.cpu._is_amx_tile_supported()


@cache
def has_avx2() -> bool:
    """Whether this processor computes float32 in AVX2 or, beyond it, AVX-512."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def bf16_is_faster() -> bool:
    """Whether a 512³ matrix product is faster in bfloat16 than in float32 on this CPU.

    Only then are convolutions in bfloat16 worth a try: without support they may take a hundred times as long.
    """
    half, single = torch.bfloat16, torch.float32
    least = min(product_seconds(single, 512) for _ in range(4))
    product_seconds(half, 256)  # the first one makes its kernel
    if min(product_seconds(half, 256) for _ in range(3)) > 2 * least:  # an eighth of the work
        return False
    # in turns: a processor that is slow at first must not favour the type that comes last
    turns = [(product_seconds(half, 512), product_seconds(single, 512)) for _ in range(8)]
    in_half, in_single = map(min, zip(*turns, strict=True))
    return in_half < in_single


def product_seconds(dtype: torch.dtype, side: int) -> float:
    """Seconds of one product of two square matrices."""
    matrix = torch.ones(side, side, dtype=dtype)
    begun = time.monotonic()
    matrix @ matrix
    return time.monotonic() - begun


class PatchProduct(torch.autograd.Function):
    """A 3×3 convolution that keeps the side, as one matrix product of patches and weights, and its gradients likewise.

    Feature maps [B, C, H, W] and weights [K, C, 3, 3] → [B, K, H, W], in channels-last memory.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor) -> Tensor:
        last = maps.permute(0, 2, 3, 1)
        seen = patches(last)
        ctx.save_for_backward(seen, weight)
        product = seen @ weight.permute(0, 2, 3, 1).flatten(1).T
        return product.view(*last.shape[:3], -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        seen, weight = ctx.saved_tensors
        outputs, inputs = weight.shape[:2]
        last, by_weight = gradient.permute(0, 2, 3, 1), None
        if ctx.needs_input_grad[1]:  # it may be frozen
            by_weight = (last.reshape(-1, outputs).T @ seen).view(outputs, 3, 3, inputs).permute(0, 3, 1, 2)
        by_maps = patches(last) @ weight.flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)  # the transposed convolution
        return by_maps.view(*last.shape[:3], inputs).permute(0, 3, 1, 2), by_weight


def patches(maps: Tensor) -> Tensor:
    """The 3×3 neighbourhood of every position, with zeros beyond the edge: [B, H, W, C] → [B·H·W, 9·C]."""
    batch, height, width, channels = maps.shape
    windows = F.pad(maps, (0, 0, 1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1)  # [B, H, W, C, 3, 3]
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(batch * height * width, 9 * channels)


class Winograd(torch.autograd.Function):
    """A 3×3 convolution that keeps the side, by Winograd's minimal filtering F(4×4, 3×3), and its gradients likewise.

    A tile of 4×4 outputs needs a tile d of 6×6 inputs. With the filter g it is Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A, summed over
    the input channels. The elementwise ⊙ becomes 36 matrix products: 36 multiplications instead of the 144 of the plain
    sum. From Lavin & Gray, Fast Algorithms for Convolutional Neural Networks (arXiv 1509.09308), section 4.1 and
    equations 12 and 14. Every step is linear in feature maps and in weights, so the gradient goes back by the
    transposed matrices.

    Feature maps [B, C, H, W], H and W multiples of 4, and weights [K, C, 3, 3] → [B, K, H, W], in channels-last memory.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor) -> Tensor:
        to_inputs, to_filters, to_outputs = _transforms(maps.dtype)
        batch, inputs, height, width = maps.shape
        outputs, down, across = len(weight), height // 4, width // 4
        tiles = batch * down * across
        padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        seen = padded.unfold(1, 6, 4).unfold(2, 6, 4)  # [B, H/4, W/4, C, 6, 6]
        seen = seen.permute(4, 5, 0, 1, 2, 3).reshape(36, tiles * inputs)
        seen = (to_inputs @ seen).view(36, tiles, inputs)
        filters = (to_filters @ weight.permute(2, 3, 1, 0).reshape(9, inputs * outputs)).view(36, inputs, outputs)
        ctx.save_for_backward(seen, filters)
        product = to_outputs @ torch.bmm(seen, filters).view(36, tiles * outputs)
        product = product.view(4, 4, batch, down, across, outputs).permute(2, 3, 0, 4, 1, 5)
        return product.contiguous().view(batch, height, width, outputs).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        seen, filters = ctx.saved_tensors
        to_inputs, to_filters, to_outputs = _transforms(gradient.dtype)
        batch, outputs, height, width = gradient.shape
        inputs, down, across = seen.shape[2], height // 4, width // 4
        tiles = batch * down * across
        last = gradient.permute(0, 2, 3, 1).reshape(batch, down, 4, across, 4, outputs)
        last = last.permute(2, 4, 0, 1, 3, 5).reshape(16, tiles * outputs)
        by_product = (to_outputs.T @ last).view(36, tiles, outputs)
        by_weight = None
        if ctx.needs_input_grad[1]:  # it may be frozen
            by_filters = torch.bmm(seen.transpose(1, 2), by_product).view(36, inputs * outputs)
            by_weight = (to_filters.T @ by_filters).view(3, 3, inputs, outputs).permute(3, 2, 0, 1)
        by_seen = to_inputs.T @ torch.bmm(by_product, filters.transpose(1, 2)).view(36, tiles * inputs)
        by_seen = by_seen.view(6, 6, batch, down, across, inputs).permute(2, 3, 0, 4, 1, 5)  # [B, H/4, 6, W/4, 6, C]
        # tiles overlap by two rows and columns: these are the first ones of the next tile
        total = gradient.new_zeros(batch, down + 1, 4, across + 1, 4, inputs)
        total[:, :-1, :, :-1] += by_seen[:, :, :4, :, :4]
        total[:, 1:, :2, :-1] += by_seen[:, :, 4:, :, :4]
        total[:, :-1, :, 1:, :2] += by_seen[:, :, :4, :, 4:]
        total[:, 1:, :2, 1:, :2] += by_seen[:, :, 4:, :, 4:]
        by_padded = total.view(batch, height + 4, width + 4, inputs)
        return by_padded[:, 1 : height + 1, 1 : width + 1].permute(0, 3, 1, 2), by_weight


# Bᵀ, G and Aᵀ of Lavin & Gray for F(4×4, 3×3), one direction
INPUTS = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
FILTERS = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
OUTPUTS = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


@cache
def _transforms(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Bᵀ, G and Aᵀ in both directions at once: [36, 36], [36, 9] and [16, 36]."""
    inputs, filters, outputs = (torch.tensor(rows, dtype=torch.float64) for rows in (INPUTS, FILTERS, OUTPUTS))
    inputs, filters, outputs = (torch.kron(matrix, matrix).to(dtype) for matrix in (inputs, filters, outputs))
    return inputs, filters, outputs
