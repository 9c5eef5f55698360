"""Kernels of low frequencies."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tricks.trick import Trick, TrickError


class CosineSum(nn.Module):
    """Kernels as sums of scaled filters of the discrete cosine transform.

    Args:
        height: of a kernel.
        width: of a kernel.
        levels: frequencies u + v below it are in the sum.
    """

    filters: Tensor

    def __init__(self, height: int, width: int, levels: int) -> None:
        super().__init__()
        self.sides = height, width
        self.register_buffer("filters", cosine_filters(height, width, levels), persistent=False)

    def forward(self, coefficients: Tensor) -> Tensor:
        """[O, I, |S|, 1] → [O, I, height, width], both as they lie in channels-last memory."""
        last = coefficients.permute(0, 2, 3, 1).flatten(1, 2)  # [O, |S|, I]
        with torch.autocast(last.device.type, enabled=False):  # it would round the terms, not only the sum
            kernels = torch.bmm(self.filters.T.expand(len(last), -1, -1), last)
        return kernels.unflatten(1, self.sides).permute(0, 3, 1, 2)

    def right_inverse(self, kernels: Tensor) -> Tensor:
        """The coefficients of the nearest sums: the filters are orthogonal to each other."""
        coefficients = kernels.flatten(2) @ (self.filters / self.filters.square().sum(1, keepdim=True)).T
        return coefficients.unsqueeze(3)


@dataclass
class Harmonic(Trick):
    """Builds every k×k kernel, k > 1, from the low frequencies of the discrete cosine transform.

    With the frequencies S = {(u, v): u + v < levels}, from input channel i to output channel o:

        W[o, i] = Σ_S c[o, i, (u, v)] · s_uv φ_uv        s_uv = a / ‖φ_uv‖₁

    φ_uv is the filter cos(π u (x + ½) / k) cos(π v (y + ½) / k) at row x and column y, divided by its Euclidean norm.
    The coefficients c are the parameter, [O, I, |S|, 1], and the kernel is built from them in every step. A convolution
    then costs as much as with a plain kernel. 1×1 convolutions and fixed weights stay as they are.

    From the paper: the sum and the truncation. From its published code: all filters have the same L1 norm, and the
    first convolution, which sees the three channels of the image, keeps all frequencies. The batch norm that they put
    on the responses of the first convolution's filters is left out, because patch_whitening is there for that.

    Ours: a makes the mean of s² over S one, so that a learning rate moves a kernel about as far as a plain one. And the
    start: the published code draws the coefficients at random. Here they are the projection of the plain network's
    initial kernel W₀ on the filters, times √(k² / |S|):

        c[o, i, (u, v)] = √(k² / |S|) ⟨φ_uv, W₀[o, i]⟩ / s_uv

    Where the weights of W₀ are independent, the kernel then has their variance, in the mean over its k² positions. With
    all frequencies it is W₀.

    Args:
        levels: of frequencies, at least 1. A 3×3 kernel has 1, 3, 6, 8 or 9 filters with 1 to 5 levels, and all of them
            from 2k − 1 levels on. The paper's WRN-28-10 with 3 levels errs as often as with all on CIFAR-10 (3.84 and
            3.86 %), more often with 2 (4.25 %). Default: 3.

    Raises:
        TrickError: there is no convolution to build.
    """

    levels: int = 3

    interacts: ClassVar[str] = (
        "patch_whitening and mirror_equivariance must come before it, as they do by default. mirror_equivariance then "
        "builds its kernels from halves of low frequencies. muon orthogonalizes the gradient of the "
        "coefficients. An orthonormal basis would not change its steps: with muon, only the truncation and the scales "
        "have an effect. gradient_centralization keeps the sum of an output's coefficients, not the sum of its "
        "weights. sam and momentum_sam measure distances in coefficients."
    )
    paper: ClassVar[str] = (
        "Ulicny, Krylov & Dahyot, Harmonic Convolutional Networks based on Discrete Cosine Transform, 2020 "
        "(arXiv 2001.06570)"
    )

    def __post_init__(self) -> None:
        if not self.levels >= 1:
            raise TrickError(f"levels must be at least 1, got {self.levels}")

    def model(self, model: nn.Module) -> nn.Module:
        large = [m for m in model.modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
        trained = [layer for layer in large if stored_weight(layer).requires_grad]
        if not trained:
            raise TrickError("harmonic finds no convolution to train in this network that is larger than 1×1")
        for layer in trained:
            height, width = layer.kernel_size
            levels = height + width - 1 if layer.in_channels == 3 else self.levels
            build_from_cosines(layer, CosineSum(height, width, levels))
        return model


@torch.no_grad()
def build_from_cosines(layer: nn.Conv2d, cosines: CosineSum) -> None:
    """Replaces a convolution's weight, or the half that mirror_equivariance stores of it, by its coefficients."""
    weight = stored_weight(layer)
    cosines.to(weight)
    coefficients = cosines.right_inverse(weight) * (cosines.filters.shape[1] / cosines.filters.shape[0]) ** 0.5
    if parametrize.is_parametrized(layer, "weight"):
        chain = parametrizations(layer)
        chain.insert(0, cosines)
    else:
        parametrize.register_parametrization(layer, "weight", cosines)
        chain = parametrizations(layer)
    chain.original = nn.Parameter(coefficients)


def stored_weight(layer: nn.Conv2d) -> Tensor:
    """A convolution's weight, or the parameter that it is built from."""
    return parametrizations(layer).original if parametrize.is_parametrized(layer, "weight") else layer.weight


def parametrizations(layer: nn.Conv2d) -> parametrize.ParametrizationList:
    """What builds a convolution's weight."""
    assert isinstance(layer.parametrizations, nn.ModuleDict)
    chain = layer.parametrizations["weight"]
    assert isinstance(chain, parametrize.ParametrizationList)
    return chain


def cosine_filters(height: int, width: int, levels: int) -> Tensor:
    """The filters s_uv φ_uv of the frequencies u + v < levels, float64 [|S|, height · width], by u and then by v."""
    down, across = cosines(height), cosines(width)
    chosen = [(u, v) for u in range(height) for v in range(width) if u + v < levels]
    filters = torch.stack([down[u].outer(across[v]).flatten() for u, v in chosen])
    filters = filters / filters.abs().sum(1, keepdim=True)
    return filters / filters.square().sum(1).mean().sqrt()


def cosines(side: int) -> Tensor:
    """cos(π u (x + ½) / side), float64 [side, side], row u and column x."""
    places = torch.arange(side, dtype=torch.float64)
    return torch.cos(torch.pi * places.outer(places + 0.5) / side)
