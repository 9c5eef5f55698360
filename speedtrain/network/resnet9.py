"""ResNet-9, and the classifier that turns stored images into logits."""

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speedtrain.config import Config
from speedtrain.errors import UserError
from speedtrain.network.convolution import Conv3x3
from tricks import TRICKS, Trick


def block(convolution: nn.Conv2d, pool: bool = False) -> nn.Sequential:
    """The convolution, 2×2 max-pool if asked for, batch norm, activation: pooling before the norm saves
    three quarters of the norm's work."""
    layers: list[nn.Module] = [convolution]
    layers += [nn.MaxPool2d(2)] if pool else []
    return nn.Sequential(*layers, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """x + f(x), with f two convolution blocks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*(block(Conv3x3(channels, channels)) for _ in range(2)))

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
        self.prep = block(nn.Conv2d(3, width, 3, padding=1, bias=False))
        self.stage1 = nn.Sequential(block(Conv3x3(width, 2 * width), pool=True), Residual(2 * width))
        self.stage2 = block(Conv3x3(2 * width, 4 * width), pool=True)
        self.stage3 = nn.Sequential(block(Conv3x3(4 * width, 8 * width), pool=True), Residual(8 * width))
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
