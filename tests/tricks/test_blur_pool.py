"""Anti-aliased pooling against the definition, position by position."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from speedtrain.network.folding import fold_norms
from tricks import BlurPool, TrickError
from tricks.blur_pool import MaxBlurPool2d


def by_the_definition(maps):
    """Maxima over 2×2, and of every second one the sum with its neighbours, by their places."""
    height, width = maps.shape[2] // 2 * 2, maps.shape[3] // 2 * 2
    maxima = [[maps[..., y : y + 2, x : x + 2].amax((2, 3)) for x in range(width - 1)] for y in range(height - 1)]
    rows = []
    for y in range(0, height, 2):
        row = []
        for x in range(0, width, 2):
            total = torch.zeros_like(maxima[0][0])
            for down, weight in ((-1, 1), (0, 2), (1, 1)):
                for right, other in ((-1, 1), (0, 2), (1, 1)):
                    place = min(max(y + down, 0), height - 2), min(max(x + right, 0), width - 2)
                    total = total + weight * other / 16 * maxima[place[0]][place[1]]
            row.append(total)
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)


@pytest.mark.parametrize("size", [(8, 8), (2, 2), (4, 6), (5, 7), (32, 2)])
def test_it_is_the_definition(size):
    maps = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    ours, theirs = MaxBlurPool2d()(maps), by_the_definition(maps)
    assert ours.shape[2:] == (size[0] // 2, size[1] // 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(ours)
    gradients = [torch.autograd.grad((value * weights).sum(), maps)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_an_image_that_moves_by_a_pixel_changes_it_less():
    maps = F.avg_pool2d(torch.randn(8, 4, 36, 36, generator=torch.Generator().manual_seed(0)), 3, stride=1)
    change = [
        (pool(maps[..., 2:]) - pool(maps[..., 1:-1])).square().mean() for pool in (MaxBlurPool2d(), nn.MaxPool2d(2))
    ]
    assert change[0] < 0.5 * change[1]


def test_only_2x2_pools_are_replaced():
    others = [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 1), nn.AvgPool2d(2), nn.MaxPool2d(2, ceil_mode=True)]
    network = BlurPool().model(nn.Sequential(nn.MaxPool2d(2), *others, nn.Sequential(nn.MaxPool2d((2, 2), 2))))
    assert isinstance(network[0], MaxBlurPool2d)
    assert isinstance(network[-1][0], MaxBlurPool2d)
    assert list(network)[1:-1] == others
    with pytest.raises(TrickError, match="no 2×2 max-pool"):
        BlurPool().model(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2)))


def test_a_norm_behind_it_is_folded_for_predictions():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU())
    network = BlurPool().model(network)
    for _ in range(3):
        network(torch.randn(8, 3, 10, 10) * 3 + 1)
    network.eval()
    images = torch.randn(2, 3, 10, 10)
    folded = fold_norms(network)
    assert isinstance(folded[2], nn.Identity)
    torch.testing.assert_close(folded(images), network(images), rtol=1e-5, atol=1e-5)
