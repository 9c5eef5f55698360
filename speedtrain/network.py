"""ResNet-9, and the classifier that turns stored images into logits."""

import difflib
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from speedtrain.config import Config
from speedtrain.errors import UserError
from tricks import TRICKS, Trick

SMALL_MAP = 16
"""Places of a map, up to which a product of patches is the faster convolution in bfloat16 on a CPU with AMX."""


def patches(maps: Tensor) -> Tensor:
    """The 3×3 neighbourhood of every place, zeros beyond the edge: [B, H, W, C] → [B·H·W, 9·C]."""
    batch, height, width, channels = maps.shape
    windows = F.pad(maps, (0, 0, 1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1)  # [B, H, W, C, 3, 3]
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(batch * height * width, 9 * channels)


class PatchProduct(torch.autograd.Function):
    """A 3×3 convolution that keeps the side, as one matrix product of patches and weights, and its gradients likewise.

    Maps [B, C, H, W] and weights [K, C, 3, 3] → [B, K, H, W], in channels-last memory.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, maps: Tensor, weight: Tensor) -> Tensor:
        last = maps.permute(0, 2, 3, 1)
        seen = patches(last)
        ctx.save_for_backward(seen, weight)
        product = seen @ weight.permute(0, 2, 3, 1).flatten(1).T
        return product.view(*last.shape[:3], -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        seen, weight = ctx.saved_tensors
        outputs, inputs = weight.shape[:2]
        last = gradient.permute(0, 2, 3, 1)
        by_weight = (last.reshape(-1, outputs).T @ seen).view(outputs, 3, 3, inputs).permute(0, 3, 1, 2)
        by_maps = patches(last) @ weight.flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)  # the transposed convolution
        return by_maps.view(*last.shape[:3], inputs).permute(0, 3, 1, 2), by_weight


class SmallMapConv2d(nn.Conv2d):
    """A 3×3 convolution that keeps the side, without bias, and is quicker on small maps where a CPU has AMX.

    There the bfloat16 kernel takes the places of one row of the map at a time, of which 4 fill a quarter of a tile:
    of maps so small it is a product of patches instead, which takes 0.4 to 0.8 of the time.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, K, H, W]."""
        half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16
        if half and x.device.type == "cpu" and x.shape[2] * x.shape[3] <= SMALL_MAP and has_amx():
            product: Tensor = PatchProduct.apply(x.bfloat16(), self.weight.bfloat16())
            return product
        return super().forward(x)


@cache
def has_amx() -> bool:
    """Whether this processor multiplies bfloat16 matrices in tiles."""
    return torch.cpu._is_amx_tile_supported()


def conv_block(inputs: int, outputs: int, pool: bool = False, conv: type[nn.Conv2d] = nn.Conv2d) -> nn.Sequential:
    """3×3 convolution, 2×2 max-pool if asked for, batch norm, activation: pooling before the norm saves
    three quarters of the norm's work."""
    layers: list[nn.Module] = [conv(inputs, outputs, 3, padding=1, bias=False)]
    layers += [nn.MaxPool2d(2)] if pool else []
    return nn.Sequential(*layers, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """x + f(x), with f two convolution blocks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*(conv_block(channels, channels, conv=SmallMapConv2d) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ResNet9(nn.Module):
    """The nine-layer residual network of DAWNBench fame, as used in arXiv 2309.03965, section 3.

    A prep convolution; three stages, each a convolution with a 2×2 max-pool before its batch norm, with a
    residual pair behind stages 1 and 3; global max-pool; a linear head without bias whose output is scaled.

    Args:
        num_classes: K.
        width: channels of the prep convolution; the stages have 2, 4 and 8 times as many. 64 is the paper's.
        head_scale: factor on the logits.
    """

    def __init__(self, num_classes: int, width: int = 64, head_scale: float = 0.125) -> None:
        super().__init__()
        self.prep = conv_block(3, width)
        self.stage1 = nn.Sequential(conv_block(width, 2 * width, pool=True), Residual(2 * width))
        self.stage2 = conv_block(2 * width, 4 * width, pool=True)
        self.stage3 = nn.Sequential(conv_block(4 * width, 8 * width, pool=True), Residual(8 * width))
        self.head = nn.Linear(8 * width, num_classes, bias=False)
        self.head_scale = head_scale

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] with H and W at least 8 → logits [B, K]."""
        x = self.stage3(self.stage2(self.stage1(self.prep(x))))
        return self.head(x.amax(dim=(2, 3))) * self.head_scale


class Classifier(nn.Module):
    """A network together with the statistics its images are normalised by.

    Both are in its state, so that the weights file alone says how to look at an image.

    Args:
        network: normalised images [B, 3, H, W] → logits [B, K].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))

    @torch.no_grad()
    def measure(self, images: Tensor) -> None:
        """Takes mean and deviation of each channel from the training images, uint8 [N, H, W, 3]."""
        # float64 sums a channel at a time: exact enough for any number of images, and little memory
        for channel in range(3):
            values = images[..., channel].flatten()
            counts = torch.bincount(values.int(), minlength=256).double()
            levels = torch.arange(256, dtype=torch.float64, device=counts.device) / 255
            mean = (counts * levels).sum() / counts.sum()
            variance = (counts * (levels - mean) ** 2).sum() / counts.sum()
            self.mean[channel] = mean
            self.std[channel] = variance.sqrt().clamp(min=1e-3)  # a constant channel stays finite

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] → float [B, 3, H, W] in channels-last memory, mean 0 and deviation 1 a channel."""
        return ((images.float() / 255 - self.mean) / self.std).permute(0, 3, 1, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] → logits [B, K]."""
        return self.network(images)


def make_tricks(config: Config) -> list[Trick]:
    """The configuration's tricks, fresh, in the order in which they wrap."""
    return [TRICKS[name](**values) for name, values in config.tricks.items()]


def build_classifier(
    model: str,
    num_classes: int,
    width: int,
    head_scale: float,
    tricks: Sequence[Trick],
    images: Tensor | None,
) -> Classifier:
    """The untrained classifier, with the tricks that act on data and model applied.

    Args:
        model: `resnet9` or `timm:NAME`.
        images: training images, uint8 [N, H, W, 3], to take statistics from; None where weights are loaded.

    Raises:
        UserError: no such model, or timm cannot build it for 32×32 images.
        TrickError: a trick cannot act on this model.
    """
    if model == "resnet9":
        network: nn.Module = ResNet9(num_classes, width, head_scale)
    else:
        network = _timm_network(model.removeprefix("timm:"), num_classes)
    classifier = Classifier(network)
    if images is not None:
        classifier.to(images.device).measure(images)
        if any("data" in trick.stages() for trick in tricks):
            # evenly: a folder's images come sorted by class
            count = min(len(images), STATISTICS_IMAGES)
            chosen = torch.arange(count, device=images.device) * len(images) // count
            normalised = classifier.normalise(images[chosen])
            for trick in tricks:
                trick.data(normalised)
    for trick in tricks:
        classifier.network = trick.model(classifier.network)
    return classifier.to(memory_format=torch.channels_last)


STATISTICS_IMAGES = 10_000
"""As many images tell a covariance as well as all of them."""


def _timm_network(name: str, num_classes: int) -> nn.Module:
    import timm  # 1.3 s, which a ResNet-9's budget need not pay

    if name not in timm.list_models():
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise UserError(f"timm has no model {name!r}" + (f"; did you mean {' or '.join(close)}?" if close else ""))
    try:
        return timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=3)
    except Exception as error:  # timm's models raise whatever they like
        raise UserError(f"timm cannot build {name}: {error}") from error
