"""ResNet-9, for images of 32 pixels and larger."""

from torch import Tensor, nn

from speedtrain.network.convolution import Conv3x3

FIRST_MAP = 32
"""Positions a side of the first feature map."""
MAX_STRIDE = 7
"""Of the stem: its patches are 9×9 then, the largest that patch whitening takes. Above 255 pixels, the maps grow."""


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


def stem_stride(side: int) -> int:
    """The stride of the stem for images [side, side]: its feature maps have 32 positions a side, or a few more."""
    return min(max(1, side // FIRST_MAP), MAX_STRIDE)


class ResNet9(nn.Module):
    """The nine-layer residual network of DAWNBench fame, as used in arXiv 2309.03965, section 3.

    A stem convolution; three stages, each a convolution with a 2×2 max-pool before its batch norm, with a
    residual pair behind stages 1 and 3; global max-pool; a linear head without bias whose output is scaled.

    Args:
        num_classes: K.
        width: channels of the stem; the stages have 2, 4 and 8 times as many. 64 is the paper's.
        head_scale: factor on the logits.
        stride: of the stem. Above 1 its patches overlap by two pixels, so that each position of the feature map sees
            all pixels of its own and one more on each side, as with stride 1. Default: 1.
    """

    def __init__(self, num_classes: int, width: int = 64, head_scale: float = 0.125, stride: int = 1) -> None:
        super().__init__()
        self.prep = block(nn.Conv2d(3, width, stride + 2, stride=stride, padding=1, bias=False))
        self.stage1 = nn.Sequential(block(Conv3x3(width, 2 * width), pool=True), Residual(2 * width))
        self.stage2 = block(Conv3x3(2 * width, 4 * width), pool=True)
        self.stage3 = nn.Sequential(block(Conv3x3(4 * width, 8 * width), pool=True), Residual(8 * width))
        self.head = nn.Linear(8 * width, num_classes, bias=False)
        self.head_scale = head_scale

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] with H and W at least 8 times the stride → logits [B, K]."""
        x = self.stage3(self.stage2(self.stage1(self.prep(x))))
        return self.head(x.amax(dim=(2, 3))) * self.head_scale
