"""Folded networks answer as before, with fewer norms."""

import pytest
import torch
from torch import nn

from speedtrain.network import convolution
from speedtrain.network.classifier import build_classifier, make_tricks
from speedtrain.network.folding import fold_norms
from speedtrain.network.precision import autocast


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def trained(model: str, tricks: dict[str, dict[str, object]], side: int, negative: bool) -> nn.Module:
    """A network whose norms do something: of random statistics, some of their scales negative."""
    chance = torch.Generator().manual_seed(0)
    classifier = build_classifier(model, 5, 8, 0.125, make_tricks(tricks), None, side)
    for norm in norms(classifier):
        for tensor in (norm.weight.data, norm.running_var):
            tensor.copy_(torch.rand(tensor.shape, generator=chance) + 0.5)
        for tensor in (norm.bias.data, norm.running_mean):
            tensor.copy_(torch.randn(tensor.shape, generator=chance))
        if negative:
            norm.weight.data[::2] *= -1
    for name, buffer in classifier.named_buffers():
        if name.endswith("weight"):  # the filters of patch whitening
            buffer.copy_(torch.randn(buffer.shape, generator=chance))
    return classifier.network.eval()


@pytest.mark.parametrize(
    ("model", "tricks", "side", "negative", "left"),
    [
        ("resnet9", {}, 32, False, 0),
        ("resnet9", {"patch_whitening": {}, "celu": {}}, 64, False, 0),
        ("resnet9", {"patch_whitening": {}}, 128, False, 1),  # its whitening is computed as one with the 1×1
        ("resnet9", {}, 32, True, 3),  # behind max-pools a negative scale would choose other positions
        ("resnet9", {"ghost_batch_norm": {}}, 32, False, 8),
        ("timm:resnet18", {}, 32, False, 17),
    ],
)
def test_answers_stay(model: str, tricks: dict[str, dict[str, object]], side: int, negative: bool, left: int) -> None:
    network = trained(model, tricks, side, negative)
    images = torch.randn(4, 3, side, side)
    with torch.no_grad():
        before = network(images)
        folded = fold_norms(network)
        torch.testing.assert_close(folded(images), before, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(network(images), before, rtol=0, atol=0)  # the original is as it was
    assert len(norms(folded)) == left


@pytest.fixture
def quick_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the processor's quick ways are taken, whatever processor this is."""
    monkeypatch.setattr(convolution, "has_amx", lambda: True)
    monkeypatch.setattr(convolution, "has_avx2", lambda: True)
    monkeypatch.setattr(convolution, "MANY_CHANNELS", 1)


@pytest.mark.usefixtures("quick_ways")
def test_convolutions_with_a_bias_take_the_quick_ways_too() -> None:
    folded = fold_norms(trained("resnet9", {}, 32, False))
    images = torch.randn(4, 3, 32, 32)
    tiled = folded(images)  # with gradients: by Winograd's algorithm
    with torch.no_grad():
        torch.testing.assert_close(tiled, folded(images), rtol=1e-3, atol=1e-3)
        with autocast(torch.device("cpu"), "bf16"):  # small feature maps by products of patches
            half = folded(images).float()
    torch.testing.assert_close(half, tiled.detach(), rtol=0.1, atol=0.1)
