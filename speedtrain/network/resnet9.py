"""ResNet-9."""

from torch import Tensor, nn

from speedtrain.network.convolution import Conv3x3


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
