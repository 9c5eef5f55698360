"""Mirror equivariance: the symmetry itself, in double precision, and each part against what it replaces."""

import pytest
import torch
from folded_network import folded_and_loaded_again
from torch import nn
from torch.nn import functional as F

from speedtrain.network.classifier import build_classifier, make_tricks
from tricks import GhostBatchNorm, MirrorEquivariance, Muon, PatchWhitening, TrickError
from tricks.mirror_equivariance import as_ordinary_layers
from tricks.patch_whitening import WhiteningConv2d, patch_covariance


def small_network(width=8):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 5),
    ).double()


def some_images(side, number=6):
    """Smooth and of unequal sides, so that neither symmetry nor white noise helps."""
    coarse = torch.randn(number, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, size=side, mode="bicubic") + torch.linspace(0, 1, side)


def symmetric(network, images):
    trick = MirrorEquivariance()
    trick.data(images, torch.zeros(len(images), dtype=torch.int64))
    return trick.model(network)


@pytest.mark.parametrize("side", [16, 22, 15])  # 22 and 15 leave a column over in one of the max-pools
@pytest.mark.parametrize("training", [True, False])
def test_an_image_and_its_mirror_image_get_the_same_answer(side, training):
    torch.manual_seed(0)
    images = some_images(side).double()
    ordinary = small_network().train(training)
    network = symmetric(small_network(), images).train(training)
    with torch.no_grad():
        torch.testing.assert_close(network(images.flip(3)), network(images), rtol=1e-12, atol=1e-12)
        assert (network(images)[0] - network(images)[1]).abs().max() > 1e-3  # it still tells images apart
        assert (ordinary(images.flip(3)) - ordinary(images)).abs().max() > 1e-3


def test_it_stays_symmetric_while_it_learns_and_has_half_the_weights():
    torch.manual_seed(0)
    images, labels = some_images(16).double(), torch.tensor([0, 1, 2, 3, 4, 0])
    network = symmetric(small_network(), images)
    count = sum(parameter.numel() for parameter in network.parameters())
    whole = sum(parameter.numel() for parameter in small_network().parameters())
    assert count == (whole - 5) / 2 + 5  # the head's bias has no halves
    optimizer = Muon(lr=0.05).step(torch.optim.SGD(network.parameters(), lr=0.1), network)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters() if parameter.ndim > 1)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    network.eval()
    torch.testing.assert_close(network(images.flip(3)), network(images), rtol=1e-10, atol=1e-10)


def test_a_kernel_is_the_blocks_of_the_formula():
    network = symmetric(small_network(), some_images(16).double())
    half = network[4].parametrizations.weight.original.detach()
    a, b = half[:, :4], half[:, 4:]
    above, below = torch.cat([a, b], 1), torch.cat([b.flip(-1), a.flip(-1)], 1)
    assert torch.equal(network[4].weight, torch.cat([above, below]))


def test_muon_trains_the_half_kernels_and_nothing_else():
    network = symmetric(small_network(), some_images(16).double())
    optimizer = Muon().step(torch.optim.SGD(network.parameters(), lr=0.1), network)
    taken = {parameter for group in optimizer.param_groups if "steps" in group for parameter in group["params"]}
    assert taken == {network[place].parametrizations.weight.original for place in (0, 4)}


def test_filters_whiten_the_images_and_their_mirror_images_together():
    images = some_images(20, 40)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.LazyLinear(5))
    whitening = PatchWhitening(eps=1e-3)
    whitening.data(images, torch.zeros(40, dtype=torch.int64))
    network = whitening.model(network)
    network(images)
    trick = MirrorEquivariance()
    filters = trick.model(network)[0][0].weight.double()
    both = (patch_covariance(images, 3) + patch_covariance(images.flip(3), 3)) / 2
    rows = filters.flatten(1)
    mean = rows @ (both + 1e-3 * torch.eye(27, dtype=torch.float64)) @ rows.T
    torch.testing.assert_close(mean, torch.eye(27, dtype=torch.float64), rtol=0, atol=1e-3)
    assert torch.equal(filters[:18].flip(3), filters[:18])  # each its own mirror image
    assert torch.equal(filters[18:].flip(3), -filters[18:])  # or the negative of it


@pytest.mark.parametrize("side", [28, 32, 64, 128])
@pytest.mark.parametrize("more", [{}, {"patch_whitening": {}}, {"patch_whitening": {}, "ghost_batch_norm": {}}])
def test_resnet9_is_symmetric_and_answers_the_same_folded_and_loaded_again(side, more):
    torch.manual_seed(0)
    pixels = (40 * some_images(side, 64).permute(0, 2, 3, 1) + 128).clamp(0, 255).byte()
    first, *rest = [(name, values) for name, values in more.items()] or [(None, None)]
    tricks = dict([*([first] if first[0] else []), ("mirror_equivariance", {}), *rest, ("celu", {"alpha": 0.3})])
    classifier = build_classifier("resnet9", 10, 8, 20.0, make_tricks(tricks), pixels, side)
    again = build_classifier("resnet9", 10, 8, 20.0, make_tricks(tricks), None, side)
    folded = folded_and_loaded_again(classifier, again, pixels[:8])
    images, network = classifier.normalise(pixels[:8]), classifier.network
    with torch.no_grad():
        answer = network(images)
        torch.testing.assert_close(network(images.flip(3)), answer, rtol=1e-3, atol=1e-4)
        assert (answer[0] - answer[1]).abs().max() > 0.01
        torch.testing.assert_close(as_ordinary_layers(network)(images), answer, rtol=1e-3, atol=1e-4)
        norms = [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
        joined = side == 128 and "patch_whitening" in more  # the stem is computed as one, and keeps its norm
        assert "ghost_batch_norm" in more or len(norms) == joined


def test_ghost_groups_of_both_halves_share_their_statistics():
    images = some_images(16, 8).double()
    network = GhostBatchNorm(splits=2).model(symmetric(small_network(), images)).train()
    with torch.no_grad():
        torch.testing.assert_close(network(images.flip(3)), network(images), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: small_network(7), "even numbers of channels, not a convolution from 3 to 7"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "convolutions and a linear head"),
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 2)), "3 input channels"),
        (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Flatten(), nn.Linear(6, 2)), "grouped"),
        # of the columns of 16 pixels, a stride of 2 leaves one over
        (
            lambda: nn.Sequential(
                nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 5)
            ).double(),
            "for images of 16 pixels",
        ),
        # a head that sees where something is
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 14 * 14, 5)).double(),
            "cannot be mirrored",
        ),
    ],
)
def test_a_network_that_does_not_become_symmetric_is_refused(network, message):
    with pytest.raises(TrickError, match=message):
        symmetric(network(), some_images(16).double())


def test_filters_that_wait_for_weights_stay_zero():
    network = PatchWhitening().model(small_network().float())
    network = MirrorEquivariance().model(network)
    fixed = next(module for module in network.modules() if isinstance(module, WhiteningConv2d))
    assert not fixed.weight.any()
