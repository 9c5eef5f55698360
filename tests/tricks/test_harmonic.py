"""Kernels of low frequencies: against scipy's discrete cosine transform, and against the sum written out."""

import copy
import math

import numpy as np
import pytest
import torch
from folded_network import folded_and_loaded_again
from scipy import fft
from torch import nn
from torch.nn import functional as F

from speedtrain.network.classifier import build_classifier, make_tricks
from speedtrain.network.convolution import Conv3x3
from tricks import Harmonic, MirrorEquivariance, Muon, PatchWhitening, TrickError
from tricks.harmonic import cosine_filters
from tricks.patch_whitening import WhiteningConv2d


def coefficients(layer):
    return layer.parametrizations.weight.original


def of_frequencies(convolution, levels=3):
    """The convolution alone, with a kernel of low frequencies."""
    return Harmonic(levels).model(convolution)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (3, 3), (5, 5), (1, 4)])
@pytest.mark.parametrize("levels", [1, 2, 3, 9])
def test_filters_are_those_of_scipy_scaled_to_one_sum_of_absolute_values(height, width, levels):
    filters = cosine_filters(height, width, levels).view(-1, height, width)
    down = fft.dct(np.eye(height), axis=0, norm="ortho")
    across = fft.dct(np.eye(width), axis=0, norm="ortho")
    frequencies = [(u, v) for u in range(height) for v in range(width) if u + v < levels]
    assert len(filters) == len(frequencies)
    for found, (u, v) in zip(filters, frequencies, strict=True):
        expected = torch.from_numpy(np.outer(down[u], across[v]))
        torch.testing.assert_close(found / found.norm(), expected, rtol=0, atol=1e-12)
    sums = filters.abs().sum((1, 2))
    torch.testing.assert_close(sums, sums[:1].expand_as(sums))
    assert filters.square().sum((1, 2)).mean().item() == pytest.approx(1)


def test_the_count_of_filters_is_that_of_the_paper():
    counts = [len(cosine_filters(3, 3, levels)) for levels in (1, 2, 3, 4, 5, 6)]
    assert counts == [1, 3, 6, 8, 9, 9]


def written_out(c, levels, k):
    """The kernel [O, I, k, k] of the formula, by loops, from coefficients [O, I, |S|, 1]."""
    frequencies = [(u, v) for u in range(k) for v in range(k) if u + v < levels]
    waves = []
    for u, v in frequencies:
        wave = [
            [math.cos(math.pi * u * (x + 0.5) / k) * math.cos(math.pi * v * (y + 0.5) / k) for y in range(k)]
            for x in range(k)
        ]
        waves.append(torch.tensor(wave, dtype=torch.float64))
    unit = [wave / wave.norm() for wave in waves]  # φ
    scales = [1 / wave.abs().sum() for wave in unit]  # s, except for a
    a = (len(scales) / sum(scale**2 for scale in scales)) ** 0.5
    return sum(c[:, :, n, 0, None, None] * a * scales[n] * unit[n] for n in range(len(unit)))


@pytest.mark.parametrize(("k", "levels"), [(3, 1), (3, 3), (3, 5), (2, 2), (5, 3)])
def test_kernel_and_gradient_are_those_of_the_sum_written_out(k, levels):
    layer = of_frequencies(nn.Conv2d(4, 6, k, padding=1).double(), levels)
    images = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    c = coefficients(layer).detach().clone().requires_grad_()
    kernel = written_out(c, levels, k)
    torch.testing.assert_close(layer.weight, kernel, rtol=0, atol=1e-12)
    F.conv2d(images, kernel, layer.bias, padding=1).tanh().square().sum().backward()
    layer(images).tanh().square().sum().backward()
    assert c.grad.abs().max() > 1e-3
    torch.testing.assert_close(coefficients(layer).grad, c.grad, rtol=0, atol=1e-12)


def test_high_frequencies_are_absent_before_and_after_a_step():
    layer = of_frequencies(nn.Conv2d(4, 6, 3).double())
    optimizer = Muon(lr=0.5).step(torch.optim.SGD(layer.parameters(), lr=0.1), layer)
    for _ in range(2):
        spectrum = np.abs(fft.dctn(layer.weight.detach().numpy(), axes=(2, 3))).max((0, 1))
        for u in range(3):
            for v in range(3):
                assert (spectrum[u, v] < 1e-12) == (u + v >= 3), (u, v)
        before = layer.weight.detach().clone()
        layer(torch.randn(2, 4, 8, 8, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
        assert (layer.weight - before).abs().max() > 1e-2


@pytest.mark.parametrize(("k", "levels"), [(3, 1), (3, 2), (3, 3), (5, 4)])
def test_at_the_start_a_kernel_has_the_variance_of_the_plain_one_and_is_a_multiple_of_its_projection(k, levels):
    plain = nn.Conv2d(64, 96, k)
    layer = of_frequencies(copy.deepcopy(plain), levels)
    assert layer.weight.var().item() == pytest.approx(plain.weight.var().item(), rel=0.06)
    spectrum = fft.dctn(plain.weight.detach().numpy(), axes=(2, 3), norm="ortho")
    ours = fft.dctn(layer.weight.detach().numpy(), axes=(2, 3), norm="ortho")
    low = np.add.outer(np.arange(k), np.arange(k)) < levels
    np.testing.assert_allclose(ours[..., low], spectrum[..., low] * (k**2 / low.sum()) ** 0.5, atol=1e-6)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_with_all_levels_any_kernel_can_be_had_and_the_start_is_the_plain_network(k):
    plain = nn.Conv2d(5, 6, k)
    layer = of_frequencies(copy.deepcopy(plain), 2 * k - 1)
    torch.testing.assert_close(layer.weight, plain.weight, rtol=0, atol=1e-6)
    some = torch.randn(6, 5, k, k)
    layer.weight = some
    torch.testing.assert_close(layer.weight, some, rtol=0, atol=1e-5)
    fewer = of_frequencies(copy.deepcopy(plain), 2 * k - 2)
    fewer.weight = some
    nearest = fewer.weight.detach().clone()
    assert (nearest - some).abs().max() > 0.1
    fewer.weight = nearest
    torch.testing.assert_close(fewer.weight, nearest, rtol=0, atol=1e-5)


def test_fixed_and_1x1_convolutions_stay_and_the_first_keeps_all_frequencies():
    fixed = nn.Conv2d(8, 8, 3)
    fixed.weight.requires_grad_(False)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), fixed, nn.Conv2d(8, 4, (1, 3)), nn.Conv2d(4, 4, 3))
    weights, first = [layer.weight for layer in network], network[0].weight.detach().clone()
    network = Harmonic(2).model(network)
    assert all(type(layer) is nn.Conv2d for layer in network[1:3])
    assert all(network[place].weight is weights[place] for place in (1, 2))
    shapes = [coefficients(network[place]).shape for place in (0, 3, 4)]
    assert shapes == [(8, 3, 9, 1), (4, 8, 2, 1), (4, 4, 3, 1)]
    torch.testing.assert_close(network[0].weight, first, rtol=0, atol=1e-6)


def test_the_filters_of_patch_whitening_stay():
    network = PatchWhitening().model(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)))
    fixed, learned = network[0]
    network = Harmonic().model(network)
    assert network[0][0] is fixed
    assert type(fixed) is WhiteningConv2d
    assert type(learned) is nn.Conv2d
    assert coefficients(network[1]).shape == (8, 8, 6, 1)


def test_a_network_without_larger_convolutions_to_train_is_refused():
    with pytest.raises(TrickError, match="larger than 1×1"):
        of_frequencies(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Linear(8, 2)))
    fixed = nn.Conv2d(4, 4, 3)
    fixed.weight.requires_grad_(False)
    with pytest.raises(TrickError, match="larger than 1×1"):
        of_frequencies(fixed)


def pixels(number=16):
    return torch.randint(256, (number, 32, 32, 3), dtype=torch.uint8)


@pytest.mark.parametrize(
    "before",
    [{}, {"patch_whitening": {}}, {"mirror_equivariance": {}}, {"patch_whitening": {}, "mirror_equivariance": {}}],
)
def test_resnet9_answers_the_same_folded_and_loaded_again(before):
    tricks = {**before, "harmonic": {"levels": 3}}
    classifier = build_classifier("resnet9", 10, 8, 20.0, make_tricks(tricks), pixels())
    again = build_classifier("resnet9", 10, 8, 20.0, make_tricks(tricks), None)
    folded = folded_and_loaded_again(classifier, again, pixels(4))
    assert sum(isinstance(layer, Conv3x3) for layer in classifier.network.modules()) == 7  # the quick path
    assert sum(type(layer) is Conv3x3 for layer in folded.modules()) == 7  # plain ones, for export
    fewer = build_classifier("resnet9", 10, 8, 20.0, make_tricks({**before, "harmonic": {"levels": 2}}), None)
    with pytest.raises(RuntimeError, match="size mismatch"):
        fewer.load_state_dict(classifier.state_dict())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_lies_in_channels_last_memory_and_is_exact_under_autocast(memory_format):
    layer = of_frequencies(nn.Conv2d(8, 6, 3, bias=False)).to(memory_format=memory_format)
    images = torch.randn(2, 8, 8, 8).to(memory_format=memory_format)
    kernel, answer = layer.weight.detach(), layer(images)
    answer.square().sum().backward()
    gradient = coefficients(layer).grad.clone()
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        kernel.double(), written_out(coefficients(layer).detach().double(), 3, 3), atol=1e-6, rtol=0
    )
    coefficients(layer).grad = None
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, kernel)
        coarse = layer(images)
    assert coarse.dtype is torch.bfloat16
    torch.testing.assert_close(coarse.float(), answer, rtol=0.05, atol=0.05)
    coarse.float().square().sum().backward()
    found = coefficients(layer).grad
    assert found.dtype is torch.float32
    assert (found - gradient).norm() < 0.05 * gradient.norm()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_muon_makes_the_matrix_of_coefficients_orthogonal(memory_format):
    network = nn.Sequential(of_frequencies(nn.Conv2d(8, 6, 3)), nn.Flatten(), nn.Linear(6 * 36, 2))
    network.to(memory_format=memory_format)
    c = coefficients(network[0])
    optimizer = Muon(lr=0.5).step(torch.optim.SGD(network.parameters(), lr=0.1), network)
    assert [p for group in optimizer.param_groups if "steps" in group for p in group["params"]] == [c]
    before = c.detach().clone()
    network(torch.randn(4, 8, 8, 8).to(memory_format=memory_format)).square().sum().backward()
    optimizer.step()
    values = torch.linalg.svdvals((c.detach() - before).flatten(1)) / 0.5  # [6, 8 · 6]
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_an_orthonormal_basis_changes_nothing_with_muon_and_scales_do():
    """The filters of 2×2 kernels all have one scale, those of 3×3 kernels do not."""
    for k, same in (2, True), (3, False):
        plain = nn.Conv2d(8, 6, k, bias=False)
        layer = of_frequencies(copy.deepcopy(plain), 2 * k - 1)
        images = torch.randn(4, 8, 6, 6)
        for one in plain, layer:
            optimizer = Muon(lr=0.1).step(torch.optim.SGD(one.parameters(), lr=0.1), one)
            one(images).square().sum().backward()
            optimizer.step()
        assert ((plain.weight - layer.weight).abs().max() < 1e-4) == same


def mirrored(network):
    trick = MirrorEquivariance()
    trick.data(torch.randn(2, 3, 16, 16, dtype=torch.float64), torch.zeros(2, dtype=torch.int64))
    return trick.model(network)


def small_network():
    convolutions = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, bias=False)
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).double()


def test_halves_of_low_frequencies_make_a_symmetric_network_of_low_frequencies():
    network = Harmonic(2).model(mirrored(small_network()))
    assert coefficients(network[0]).shape == (4, 3, 9, 1)
    assert coefficients(network[2]).shape == (4, 8, 3, 1)
    optimizer = Muon().step(torch.optim.SGD(network.parameters(), lr=0.1), network)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    F.cross_entropy(network(images), torch.tensor([0, 1])).backward()
    optimizer.step()
    torch.testing.assert_close(network(images.flip(3)), network(images), rtol=1e-10, atol=1e-10)
    spectrum = np.abs(fft.dctn(network[2].weight.detach().numpy(), axes=(2, 3))).max((0, 1))
    high = np.add.outer(np.arange(3), np.arange(3)) >= 2
    assert spectrum[high].max() < 1e-12
    assert spectrum[~high].min() > 1e-3
    with torch.no_grad():  # where weights are to be loaded
        again = Harmonic(2).model(mirrored(small_network()))
    assert again.state_dict().keys() == network.state_dict().keys()


def test_what_must_come_before_it_is_refused_behind_it():
    with pytest.raises(TrickError, match="mirror_equivariance must come before harmonic"):
        mirrored(Harmonic().model(small_network()))
    with pytest.raises(TrickError, match="patch_whitening can replace a plain Conv2d"):
        PatchWhitening().model(Harmonic().model(small_network()))
