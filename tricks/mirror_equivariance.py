"""Mirror equivariance."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tricks.patch_whitening import WhiteningConv2d
from tricks.surgery import replace_modules
from tricks.trick import Trick, TrickError

TOLERANCE = 1e-3
"""The largest difference of a logit between an image and its mirror image, as a share of the largest logit."""


class Lifting(nn.Module):
    """The kernel of the first convolution, from its first half: the second half of its outputs are the mirror images
    of the first, where input channel i of a mirror image is the mirror image of channel i, times signs[i]."""

    signs: Tensor

    def __init__(self, signs: Tensor) -> None:
        super().__init__()
        self.register_buffer("signs", signs.view(-1, 1, 1), persistent=False)

    def forward(self, half: Tensor) -> Tensor:
        """[K/2, C, k, k] → [K, C, k, k]."""
        half = in_autocast(half)
        return torch.cat([half, half.flip(3) * self.signs.to(half.dtype)])

    def right_inverse(self, kernel: Tensor) -> Tensor:
        """The first half of a kernel's outputs."""
        return kernel[: len(kernel) // 2]


class Equivariant(nn.Module):
    """The kernel [[A, B], [mirrored B, mirrored A]] of a convolution, from its upper half [A, B]."""

    def forward(self, half: Tensor) -> Tensor:
        """[K/2, C, k, k] → [K, C, k, k]."""
        last = in_autocast(half).permute(0, 2, 3, 1)  # as it lies in channels-last memory
        return torch.cat([last, last.flip(2).roll(last.shape[3] // 2, 3)]).permute(0, 3, 1, 2)

    def right_inverse(self, kernel: Tensor) -> Tensor:
        """The upper half of a kernel."""
        return kernel[: len(kernel) // 2]


class SharedByHalves(nn.Module):
    """A tensor whose two halves along a dimension are the same: a bias of both halves of the channels (0), or a linear
    layer's weight that reads the sum of both (1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, half: Tensor) -> Tensor:
        """[…, C/2, …] → […, C, …]."""
        return torch.cat([half, half], self.dim)

    def right_inverse(self, whole: Tensor) -> Tensor:
        """The first half."""
        return whole.narrow(self.dim, 0, whole.shape[self.dim] // 2)


class SharedNorm(nn.Module):
    """A batch norm whose statistics and parameters both halves of the channels share, and the activation behind it.

    The activation belongs to it because it may work in place, which is slow on the view that the norm's result is
    outside: autograd then copies it.
    """

    def __init__(self, norm: nn.BatchNorm2d, activation: nn.Module | None = None) -> None:
        super().__init__()
        half = norm.num_features // 2
        change_channels(norm, half, lambda tensor: tensor[:half].clone())
        self.norm = norm
        self.activation = activation

    def ordinary(self) -> nn.Module:
        """A norm of all channels that computes the same in evaluation mode."""
        norm = copy.deepcopy(self.norm)
        change_channels(norm, 2 * norm.num_features, lambda tensor: tensor.repeat(2))
        return norm

    def forward(self, maps: Tensor) -> Tensor:
        """[B, C, H, W] → the same shape; the halves lie side by side for the norm, [B, C/2, H, 2W]."""
        last = maps.permute(0, 2, 3, 1)
        beside = last.reshape(len(last), last.shape[1], -1, last.shape[3] // 2)
        result = self.norm(beside.permute(0, 3, 1, 2))
        if self.activation is not None:
            result = self.activation(result)
        return result.permute(0, 2, 3, 1).reshape(last.shape).permute(0, 3, 1, 2)


def change_channels(norm: nn.BatchNorm2d, channels: int, change: Callable[[Tensor], Tensor]) -> None:
    """Gives a norm another number of channels, by a change of its parameters and statistics [C]."""
    for name in ("weight", "bias"):
        if (parameter := getattr(norm, name)) is not None:
            setattr(norm, name, nn.Parameter(change(parameter.detach()), parameter.requires_grad))
    for name in ("running_mean", "running_var"):
        if (statistic := getattr(norm, name)) is not None:
            setattr(norm, name, change(statistic))
    norm.num_features = channels


class MirrorMaxPool2d(nn.MaxPool2d):
    """A max-pool that leaves over the last column of the first half of the channels, and the first column of the
    second half, where the width is odd."""

    @classmethod
    def like(cls, pool: nn.MaxPool2d) -> "MirrorMaxPool2d":
        """With the arguments of an ordinary one."""
        return cls(pool.kernel_size, pool.stride, pool.padding, pool.dilation, ceil_mode=pool.ceil_mode)

    def forward(self, maps: Tensor) -> Tensor:
        if maps.shape[3] % 2 == 0:
            return super().forward(maps)
        first, second = maps.chunk(2, 1)
        return super().forward(torch.cat([first[..., :-1], second[..., 1:]], 1))


@dataclass
class MirrorEquivariance(Trick):
    """A network that gives an image and its mirror image the same answer, by construction.

    The channels of every feature map form two halves. Where an image is mirrored, each half becomes the mirror image
    of the other one. So the kernel of a convolution from two halves to two halves is

        [[A, B], [mirrored B, mirrored A]]

    and it is built in every step from its upper half. The second half of the first convolution's kernel is the mirror
    image of the first half. The halves share the statistics and parameters of batch norms, and the head reads their
    sum. A step takes as long as that of an ordinary network with as many channels, which has twice the parameters.

    Filters of patch whitening become those of the images and their mirror images together. Each is then its own mirror
    image, or the negative of it.

    Raises:
        TrickError: the network does not become symmetric. Its convolutions and max-pools must leave no column over,
            and have an even number of channels. Nothing but pointwise operations may stand between them.
    """

    interacts: ClassVar[str] = (
        "patch_whitening: its filters become symmetric. flip has no effect, except together with a crop. "
        "test_time_augmentation: the mode shift gives the same answers as mirror+shift, in half the time. muon makes "
        "only the upper half of each kernel orthogonal."
    )
    paper: ClassVar[str] = "Weiler & Cesa, General E(2)-Equivariant Steerable CNNs, 2019 (arXiv 1911.08251)"

    def __post_init__(self) -> None:
        self._images: Tensor | None = None

    def data(self, images: Tensor, labels: Tensor) -> None:
        self._images = images[:2].clone()

    def model(self, model: nn.Module) -> nn.Module:
        convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        head = next((module for module in model.modules() if isinstance(module, nn.Linear)), None)
        if not convolutions or head is None:
            raise TrickError("mirror_equivariance needs a network of convolutions and a linear head")
        first, whitening = first_convolution(model)
        others = [layer for layer in convolutions if layer is not first]
        for layer in convolutions:
            self._check(layer, first=layer is first)
        if head.in_features % 2:
            raise TrickError(f"mirror_equivariance needs an even number of inputs of the head, not {head.in_features}")
        signs = torch.ones(first.in_channels)
        if whitening is not None:
            whitening.weight, signs = symmetric_filters(whitening.weight)
        parametrize.register_parametrization(first, "weight", Lifting(signs.to(first.weight)))
        for layer in others:
            parametrize.register_parametrization(layer, "weight", Equivariant())
        for layer in convolutions:
            if layer.bias is not None:
                parametrize.register_parametrization(layer, "bias", SharedByHalves(0))
        parametrize.register_parametrization(head, "weight", SharedByHalves(1))
        share_norms(model)
        pools = [module for module in model.modules() if isinstance(module, nn.MaxPool2d)]
        model = replace_modules(model, {pool: MirrorMaxPool2d.like(pool) for pool in pools})
        self._prove(model)
        return model

    @staticmethod
    def _check(layer: nn.Conv2d, first: bool) -> None:
        """Raises TrickError where a convolution cannot have such a kernel."""
        if parametrize.is_parametrized(layer, "weight"):
            raise TrickError("mirror_equivariance must come before harmonic and other tricks that build kernels")
        if layer.groups != 1:
            raise TrickError("mirror_equivariance cannot be used with grouped convolutions")
        if layer.out_channels % 2 or (not first and layer.in_channels % 2):
            raise TrickError(
                "mirror_equivariance needs even numbers of channels, not a convolution from "
                f"{layer.in_channels} to {layer.out_channels}; choose another width"
            )

    @torch.no_grad()
    def _prove(self, model: nn.Module) -> None:
        """Raises TrickError where the network does not answer the same for training images and their mirror images."""
        if self._images is None:  # a network whose weights are to be loaded
            return
        images, self._images = self._images, None
        network = copy.deepcopy(model).eval().to(images)
        logits, mirrored = network(images), network(images.flip(3))
        if float((logits - mirrored).abs().max()) > TOLERANCE * float(logits.abs().max()):
            raise TrickError(
                f"mirror_equivariance does not make this network symmetric for images of {images.shape[3]} pixels: a "
                "strided convolution leaves a column over, or a part of the network cannot be mirrored"
            )


def share_norms(model: nn.Module) -> None:
    """Replaces every batch norm by a shared one, which takes in an activation that works in place behind it."""
    for chain in list(model.modules()):
        if isinstance(chain, nn.Sequential):
            for place in range(len(chain) - 1):
                norm, behind = chain[place], chain[place + 1]
                if isinstance(norm, nn.BatchNorm2d) and getattr(behind, "inplace", False):
                    chain[place], chain[place + 1] = SharedNorm(norm, behind), nn.Identity()
    shared = {module.norm for module in model.modules() if isinstance(module, SharedNorm)}
    others = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m not in shared]
    replace_modules(model, {norm: SharedNorm(norm) for norm in others})


def in_autocast(half: Tensor) -> Tensor:
    """A half kernel in the precision in which it will be used: the whole one is then built in it too."""
    device = half.device.type
    return half.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else half


def first_convolution(model: nn.Module) -> tuple[nn.Conv2d, WhiteningConv2d | None]:
    """The first trained convolution, which sees the image or patch whitening's filters, and these filters.

    Raises:
        TrickError: no convolution sees three channels.
    """
    for chain in model.modules():
        if isinstance(chain, nn.Sequential) and len(chain) == 2:
            whitening, learned = chain
            if isinstance(whitening, WhiteningConv2d) and isinstance(learned, nn.Conv2d):
                return learned, whitening
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            return module, None
    raise TrickError("mirror_equivariance finds no convolution with 3 input channels, which would see the image")


def symmetric_filters(filters: Tensor) -> tuple[Tensor, Tensor]:
    """Whitening filters [C·k², C, k, k] of patches and their mirror images together, and their signs [C·k²].

    A filter wᵢ = uᵢ / √λᵢ tells a direction and its variance, so the covariance is Σ = Σᵢ λᵢ uᵢ uᵢᵀ. That of the
    patches and their mirror images is (Σ + P Σ P) / 2, where P mirrors a patch. Its eigenvectors are their own mirror
    images (sign 1, first) or the negative of them (sign −1). Filters of zeros, which wait for weights, stay zeros.
    """
    shape = filters.shape
    size = len(filters)
    mirror = torch.eye(size, dtype=torch.float64).view(size, *shape[1:]).flip(3).flatten(1)
    values, vectors = torch.linalg.eigh(mirror)  # of −1 first
    signs = values.round().flip(0)
    rows = filters.detach().flatten(1).double().cpu()
    if not rows.any():
        return filters, signs.to(filters)
    variances = 1 / (rows**2).sum(1, keepdim=True)  # λ
    directions = rows * variances.sqrt()
    covariance = directions.T @ (variances * directions)
    covariance = (covariance + mirror @ covariance @ mirror) / 2
    found = []
    for sign in (1, -1):
        basis = vectors[:, values.round() == sign]
        variance, inside = torch.linalg.eigh(basis.T @ covariance @ basis)
        kernels = ((basis @ inside) / variance.sqrt()).T.reshape(-1, *shape[1:])
        found.append((kernels + sign * kernels.flip(3)) / 2)  # without rounding errors of the decomposition
    return torch.cat(found).to(filters), signs.to(filters)


def as_ordinary_layers(model: nn.Module) -> nn.Module:
    """A copy of a model whose kernels are built once and for all, for predictions; other layers are copied as they are.

    PyTorch's `remove_parametrizations` cannot be used on a copy: it changes the class, which the original shares.
    """
    model = copy.deepcopy(model)
    for layer in list(model.modules()):
        if parametrize.is_parametrized(layer):
            assert isinstance(layer.parametrizations, nn.ModuleDict)
            built = {name: getattr(layer, name).detach() for name in layer.parametrizations}
            layer.__class__ = parametrize.type_before_parametrizations(layer)
            del layer.parametrizations
            for name, tensor in built.items():
                layer.register_parameter(name, nn.Parameter(tensor))
        if isinstance(layer, nn.Sequential):
            for place, norm in enumerate(layer):
                if isinstance(norm, SharedNorm) and norm.activation is not None:
                    layer[place + 1] = norm.activation
    return replace_modules(model, {m: m.ordinary() for m in model.modules() if isinstance(m, SharedNorm)})
