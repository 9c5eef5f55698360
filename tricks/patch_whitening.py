"""Patch whitening."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tricks.surgery import replace_modules
from tricks.trick import Trick, TrickError

MAX_IMAGES = 10_000  # nine million patches of 32×32 images: far more than the covariance needs

MAX_PATCH = 9  # 243 directions: many more would need more patches than there are


class WhiteningConv2d(nn.Module):
    """A bias-free convolution whose filters are a buffer: saved and loaded, but never trained or decayed."""

    weight: Tensor

    def __init__(self, filters: Tensor, stride: tuple[int, ...], padding: list[int]) -> None:
        super().__init__()
        self.register_buffer("weight", filters)
        self.stride = stride
        self.padding = padding

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(F.pad(images, self.padding), self.weight, stride=self.stride)

    def extra_repr(self) -> str:
        filters, channels, *kernel = self.weight.shape
        shape = f"{channels}, {filters}, kernel_size={tuple(kernel)}"
        return f"{shape}, stride={self.stride}, padding={self.padding}"


class JoinedConv2d(nn.Sequential):
    """A whitening convolution and the learned 1×1 convolution without bias behind it, computed as one.

    Its filters are the product of the two. Large patches have many more whitening filters than there are channels
    behind them, so that this is several times less work.
    """

    def forward(self, images: Tensor) -> Tensor:
        fixed, _ = self
        assert isinstance(fixed, WhiteningConv2d)
        return F.conv2d(F.pad(images, fixed.padding), self._product(), stride=fixed.stride)

    def joined(self) -> WhiteningConv2d:
        """One convolution that computes the same, for a network that is not trained any more."""
        fixed, _ = self
        assert isinstance(fixed, WhiteningConv2d)
        return WhiteningConv2d(self._product().detach(), fixed.stride, fixed.padding)

    def _product(self) -> Tensor:
        fixed, learned = self
        assert isinstance(fixed, WhiteningConv2d)
        assert isinstance(learned, nn.Conv2d)
        with torch.autocast(fixed.weight.device.type, enabled=False):
            weight = learned.weight.flatten(1) @ fixed.weight.flatten(1)
        return weight.view(-1, *fixed.weight.shape[1:])


@dataclass
class PatchWhitening(Trick):
    """Decorrelates the network's input with fixed filters, so that training need not learn this first.

    The filters are the eigenvectors of the covariance Σ of all k×k patches of the training images. Each is scaled to
    give outputs of variance one:

        Σ = U diag(λ) Uᵀ        wᵢ = uᵢ / √(λᵢ + ε)

    Of more than 10,000 images of 32×32 pixels, or as many pixels of larger images, 10,000 are used, evenly spaced. The
    filters and a learned 1×1 convolution replace the first convolution; the size of its output stays the same. Where
    there are no training images, as for prediction, the filters are zeros until saved weights are loaded.

    A first convolution that divides the images into patches, its kernel being no larger than twice its stride, is
    whitened by patches of its own size and stride instead.

    Args:
        eps: ε, added to the eigenvalues, so that directions that hold only noise are not amplified. Default: 0.01.
        kernel: side k of a patch in pixels, 2 or 3, where the first convolution does not divide the images into
            patches. Default: 3.
    """

    eps: float = 1e-2
    kernel: Literal[2, 3] = 3

    interacts: ClassVar[str] = (
        "The filters are computed from the original training images, so random_crop, cutout, progressive_resizing and "
        "other tricks that change batches do not affect them. muon trains the 1×1 convolution behind the filters. "
        "weight_averaging does not change the filters."
    )
    paper: ClassVar[str] = "Page, How to Train Your ResNet 8: Bag of Tricks, 2019 (myrtle.ai)"

    def __post_init__(self) -> None:
        if not 0 < self.eps < float("inf"):
            raise TrickError(f"eps must be positive and finite, got {self.eps}")
        if self.kernel not in (2, 3):
            raise TrickError(f"kernel must be 2 or 3, got {self.kernel}")
        self._channels = 3
        self._images: Tensor | None = None

    def data(self, images: Tensor, labels: Tensor) -> None:
        self._channels = images.shape[1]
        if min(images.shape[2:]) < self.kernel:
            raise TrickError(f"patches of {self.kernel}×{self.kernel} do not fit into the images")
        as_large = max(1.0, images[0, 0].numel() / 32**2)  # a larger image has more patches
        count = min(len(images), max(1, int(MAX_IMAGES / as_large)))
        chosen = torch.arange(count, device=images.device) * len(images) // count
        self._images = images[chosen]

    def model(self, model: nn.Module) -> nn.Module:
        convolutions = (m for m in model.modules() if isinstance(m, nn.Conv2d))
        first = next((c for c in convolutions if c.in_channels == self._channels), None)
        if first is None:
            raise TrickError(f"patch_whitening finds no convolution with {self._channels} input channels to replace")
        kernel, stride = max(first.kernel_size), max(first.stride)
        if kernel > MAX_PATCH or (not divides_into_patches(first) and (kernel > 7 or stride > 2)):
            raise TrickError(
                "patch_whitening needs a first convolution of kernel up to 7 and stride up to 2, or of patches of up "
                f"to {MAX_PATCH}×{MAX_PATCH} pixels, not of kernel {kernel} and stride {stride}"
            )
        if type(first) is not nn.Conv2d:  # it may pad in a way of its own
            raise TrickError(f"patch_whitening can replace a plain Conv2d, not a {type(first).__name__}")
        return replace_modules(model, {first: self.whitened(first)})

    def whitened(self, convolution: nn.Conv2d) -> nn.Module:
        """The fixed and the learned convolution that replace `convolution`."""
        weight, patches = convolution.weight, divides_into_patches(convolution)
        kernel = max(convolution.kernel_size) if patches else self.kernel
        filters = self._filters(kernel, max(convolution.stride) if patches else 1)
        # a stride in the fixed convolution gives what a stride in the 1×1 would, for less work
        fixed = WhiteningConv2d(filters.to(weight), convolution.stride, self._padding(convolution, kernel))
        bias = convolution.bias is not None
        learned = nn.Conv2d(
            len(filters), convolution.out_channels, 1, bias=bias, device=weight.device, dtype=weight.dtype
        )
        kind = JoinedConv2d if patches and not bias else nn.Sequential
        return kind(fixed, learned).train(convolution.training)

    @torch.no_grad()
    def _filters(self, kernel: int, stride: int) -> Tensor:
        """The scaled eigenvectors, [C·k², C, k, k]; zeros without images."""
        size = self._channels * kernel**2
        shape = (size, self._channels, kernel, kernel)
        if self._images is None:
            return torch.zeros(shape)
        images, self._images = self._images, None  # they are large, and not needed again
        variance, directions = torch.linalg.eigh(patch_covariance(images.cpu(), kernel, stride))
        return (directions.T.contiguous() / (variance.clamp(min=0) + self.eps).sqrt()[:, None]).view(shape)

    def _padding(self, convolution: nn.Conv2d, kernel: int) -> list[int]:
        """Padding (left, right, top, bottom) that keeps the output size; negative is a crop."""
        padding: list[int] = []
        for axis in (1, 0):
            extent = convolution.dilation[axis] * (convolution.kernel_size[axis] - 1)
            if isinstance(convolution.padding, str):
                total = extent if convolution.padding == "same" else 0
            else:
                total = 2 * convolution.padding[axis]
            total += kernel - 1 - extent
            padding += [total // 2, total - total // 2]
        return padding


def divides_into_patches(convolution: nn.Conv2d) -> bool:
    """Whether a convolution cuts the images into patches that overlap by half at most."""
    return max(convolution.stride) > 1 and max(convolution.kernel_size) <= 2 * max(convolution.stride)


def patch_covariance(images: Tensor, kernel: int, stride: int = 1) -> Tensor:
    """Covariance [C·k², C·k²] of the k×k patches of the images [N, C, H, W], summed up in float64.

    Args:
        stride: steps between patches in pixels; default: 1, all patches.
    """
    size = images.shape[1] * kernel**2
    total = torch.zeros(size, dtype=torch.float64, device=images.device)
    products = torch.zeros(size, size, dtype=torch.float64, device=images.device)
    count = 0
    for part in images.split(16):  # the patches of all images at once would be large
        exact = part if part.dtype == torch.float64 else part.float()
        patches = F.unfold(exact, kernel, stride=stride).transpose(0, 1).flatten(1)
        total += patches.sum(dim=1, dtype=torch.float64)
        products += patches @ patches.T
        count += patches.shape[1]
    mean = total / count
    return products / count - mean.outer(mean)
