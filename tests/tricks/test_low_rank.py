"""Convolutions of low rank: against numpy's singular value decomposition, by made-up timings, and frozen in turns."""

import copy
import json
import time

import numpy as np
import pytest
import torch
from folded_network import folded_and_loaded_again
from torch import nn
from torch.nn import functional as F

from speedtrain.network.classifier import build_classifier, make_tricks
from speedtrain.network.convolution import Conv3x3
from tricks import Harmonic, LowRank, MirrorEquivariance, Muon, TrickError, low_rank
from tricks.low_rank import factorised, factors_in, fastest_ranks, seconds_of_pass, share_of_time


def flat(layer):
    return layer.weight.detach().flatten(1)


def ranks_in(network):
    return [first.out_channels for first, _ in factors_in(network)]


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "rank"), [(20, 24, 3, 16), (4, 40, 3, 16), (24, 20, (1, 3), 5)]
)
def test_the_start_is_numpys_best_approximation_with_singular_values_split_evenly(inputs, outputs, kernel, rank):
    layer = nn.Conv2d(inputs, outputs, kernel).double()
    first, second = (flat(factor).numpy() for factor in factorised(layer, rank))
    left, values, right = np.linalg.svd(flat(layer).numpy(), full_matrices=False)
    np.testing.assert_allclose(second @ first, (left[:, :rank] * values[:rank]) @ right[:rank], atol=1e-12)
    np.testing.assert_allclose(first @ first.T, np.diag(values[:rank]), atol=1e-12)
    np.testing.assert_allclose(second.T @ second, np.diag(values[:rank]), atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2, "padding": 1}, {"padding": 2, "dilation": 2, "padding_mode": "reflect", "bias": False}],
)
def test_factors_compute_the_convolution_by_the_product_kernel(options):
    layer = nn.Conv2d(20, 24, 3, **options).double()
    factors, expected = factorised(layer, 16), copy.deepcopy(layer)
    first, second = factors
    expected.weight = nn.Parameter((flat(second) @ flat(first)).view_as(layer.weight))
    images = torch.randn(2, 20, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(factors(images), expected(images), rtol=0, atol=1e-12)
    assert (layer(images) - expected(images)).abs().max() > 1e-3  # the rank is smaller


def test_the_first_factor_keeps_the_class_and_layout_of_its_convolution():
    layer = Conv3x3(96, 96).to(memory_format=torch.channels_last)
    first, second = factors = factorised(layer, 48)
    assert type(first) is Conv3x3
    assert (first.out_channels, layer.out_channels) == (48, 96)
    assert first.weight.is_contiguous(memory_format=torch.channels_last)
    images = torch.randn(1, 96, 4, 4).to(memory_format=torch.channels_last)
    product = (flat(second) @ flat(first)).view_as(layer.weight)
    torch.testing.assert_close(factors(images), F.conv2d(images, product, padding=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("share", "ranks"), [(0.1, [16, 16]), (0.25, [16, 16]), (0.26, [32, 32]), (0.75, [48, 48]), (0.76, []), (1, [])]
)
def test_a_share_is_rounded_up_to_the_tile_and_other_convolutions_stay(share, ranks):
    fixed = nn.Conv2d(64, 32, 3)
    fixed.weight.requires_grad_(False)
    others = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 3, groups=2), fixed
    network = nn.Sequential(others[0], nn.Conv2d(64, 64, 3), *others[1:], nn.Conv2d(32, 64, 3))
    network = LowRank(share=share).model(network)
    assert ranks_in(network) == ranks
    assert all(network[place] is other for place, other in zip((0, 2, 3, 4), others, strict=True))


def chain():
    """Candidates from 32 to 128 channels and, twice, from 128 to 128."""
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.Conv2d(32, 128, 3, 2, 1)]
    return nn.Sequential(*layers, nn.Conv2d(128, 128, 3, padding=1), nn.Conv2d(128, 128, 3, padding=1))


@pytest.fixture
def timings(monkeypatch):
    """Makes up the share of time of a rank; gives the list of what is timed: rank, inputs and their type."""

    def make_up(share):
        timed = []

        def share_of_time(factors, layer, inputs, precision):
            assert flat(factors[1]).shape == (layer.out_channels, factors[0].out_channels)
            timed.append((factors[0].out_channels, tuple(inputs.shape), inputs.dtype))
            return share(factors[0].out_channels)

        monkeypatch.setattr(low_rank, "share_of_time", share_of_time)
        return timed

    return make_up


@pytest.mark.parametrize(
    ("share", "margin", "ranks", "timed"),
    [
        (lambda rank: rank / 64, 0.25, (48, 48, 48), [48, 64, 32, 48, 64]),
        (lambda rank: rank / 64, 0.5, (32, 32, 32), [32, 48, 16, 32]),
        (lambda rank: 0.75, 0.25, (64, 80, 80), [48, 64, 80, 32, 48, 64]),
        (lambda rank: 0.76, 0.25, (0, 0, 0), [48, 16, 32, 16]),
        (lambda rank: 0.999, 0, (80, 112, 112), [64, 96, 112, 48, 64, 80]),
    ],
)
def test_the_largest_multiple_of_the_tile_that_saves_enough_and_the_original_where_none_does(
    timings, share, margin, ranks, timed
):
    """Those of more than 1 − margin of the multiplications are not tried. The third convolution is like the second."""
    asked = timings(share)
    assert fastest_ranks(chain(), torch.randn(2, 3, 8, 8), margin) == ranks
    assert [rank for rank, *_ in asked] == timed
    assert {shape for _, shape, _ in asked} == {(2, 32, 8, 8), (2, 128, 4, 4)}


def test_convolutions_are_timed_in_the_precision_of_training_and_the_network_stays(timings):
    asked, network = timings(lambda rank: 0.5), chain()
    before = copy.deepcopy(network.state_dict())
    fastest_ranks(network, torch.randn(2, 3, 8, 8), precision=torch.bfloat16)
    assert {dtype for *_, dtype in asked} == {torch.bfloat16}
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in network)


def test_without_time_convolutions_stay(timings):
    asked = timings(lambda rank: 0.5)
    assert fastest_ranks(chain(), torch.randn(2, 3, 8, 8), until=time.monotonic()) == (0, 0, 0)
    assert not asked


def test_the_shortest_of_the_turns_counts_and_not_the_first_pass(monkeypatch):
    factors, layer = nn.Identity(), nn.Identity()
    seconds = {factors: iter([0.1, 3, 1, 3, 3, 3]), layer: iter([0.2, 5, 5, 4, 5, 5])}
    monkeypatch.setattr(low_rank, "seconds_of_pass", lambda module, *_: next(seconds[module]))
    assert share_of_time(factors, layer, torch.zeros(1), torch.float32) == 1 / 4


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_timed_pass_goes_forwards_and_backwards(precision):
    seen = []

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx, outputs):
            seen.append(outputs.dtype)
            return outputs.clone()

        @staticmethod
        def backward(ctx, gradient):
            seen.append("backwards")
            return gradient

    class Watched(nn.Conv2d):
        def forward(self, inputs):
            return Watch.apply(super().forward(inputs))

    layer = Watched(4, 4, 3)
    assert seconds_of_pass(layer, torch.randn(1, 4, 5, 5), precision) > 0
    assert seen == [precision, "backwards"]
    assert layer.weight.grad is None


def test_ranks_that_are_timed_for_real_make_a_network():
    network, images = chain(), torch.randn(2, 3, 8, 8)
    ranks = fastest_ranks(network, images)
    assert len(ranks) == 3
    network = LowRank(ranks=ranks).model(network)
    assert ranks_in(network) == [rank for rank in ranks if rank]
    assert network(images).shape == (2, 128, 4, 4)


def small_network():
    """Its second convolution has rank 16 by default."""
    layers = [nn.Conv2d(3, 20, 3, padding=1, bias=False), nn.BatchNorm2d(20), nn.ReLU()]
    layers += [nn.Conv2d(20, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4))


def alternating(plain, muon=False):
    """A network with its trick, optimizer and gradient; what is frozen changes four times."""
    trick = LowRank(freeze="alternate", turns=4)
    model = trick.model(small_network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    if muon:
        optimizer = Muon(weight_decay=0.1).step(optimizer, model)
    return trick, model, trick.step(optimizer, model), trick.gradient(plain(model), model)


@pytest.mark.parametrize("muon", [False, True])
def test_what_is_frozen_has_no_gradient_no_decay_and_no_momentum(make_batch, plain, muon):
    _, model, optimizer, compute = alternating(plain, muon)
    (pair,) = factors_in(model)
    for step in range(9):
        turn = min(step // 2, 3)
        learning, frozen = pair[turn % 2].weight, pair[1 - turn % 2].weight
        before = learning.detach().clone(), frozen.detach().clone()
        compute(make_batch(progress=step / 8, step=step))
        assert frozen.grad is None
        optimizer.step()
        assert frozen not in optimizer.state
        assert torch.equal(frozen, before[1])
        assert not torch.equal(learning, before[0])
        assert model[-1].weight.grad is not None
        if step < 8 and step % 2 == 0:  # a turn begins, and so does the momentum
            momentum = optimizer.state[learning]["momentum" if muon else "momentum_buffer"]
            torch.testing.assert_close(momentum, learning.grad if muon else learning.grad + 0.1 * before[0])


def test_without_freezing_both_factors_learn(make_batch, plain):
    trick = LowRank()
    model = trick.model(small_network())
    compute = plain(model)
    assert trick.gradient(compute, model) is compute
    compute(make_batch())
    assert all(factor.weight.grad.abs().sum() > 0 for factor in factors_in(model)[0])


def test_training_that_goes_back_to_another_turn_repeats_its_steps(make_batch, plain):
    trick, model, optimizer, compute = alternating(plain)

    def train(steps):
        torch.manual_seed(1)
        kept = []
        for step in steps:
            compute(make_batch(progress=step / 12, step=step))
            optimizer.step()
            kept.append(copy.deepcopy(model.state_dict()))
        return kept

    train(range(5))
    start = copy.deepcopy((model.state_dict(), optimizer.state_dict(), trick.state()))
    first = train(range(5, 12))
    weights, momentum, state = copy.deepcopy(start)
    model.load_state_dict(weights)
    optimizer.load_state_dict(momentum)
    trick.load_state(state)
    for now, then in zip(train(range(5, 12)), first, strict=True):
        assert all(torch.equal(now[name], then[name]) for name in then)


RANKS = (16, 0, 16, 32, 64, 0, 80)


def resnet9(images=None, width=16, ranks=RANKS):
    tricks = {"patch_whitening": {}, "celu": {}, "low_rank": {"ranks": ranks}}
    tricks = json.loads(json.dumps(tricks))  # as they are stored
    return build_classifier("resnet9", 10, width, 20.0, make_tricks(tricks), images)


def test_resnet9_has_the_structure_of_its_ranks_folded_and_loaded_again():
    pixels = torch.randint(256, (16, 32, 32, 3), dtype=torch.uint8)
    classifier = resnet9(pixels)
    folded = folded_and_loaded_again(classifier, resnet9(), pixels[:4])
    network = classifier.network
    assert ranks_in(network) == [rank for rank in RANKS if rank]
    assert sum(isinstance(layer, Conv3x3) for layer in network.modules()) == 7  # the quick path
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_a_rank_that_saves_no_multiplications_keeps_its_convolution():
    """So ranks for a wide network fit the small one that is tried before the clock starts."""
    assert ranks_in(resnet9(width=8).network) == []
    assert ranks_in(resnet9(width=32).network) == [rank for rank in RANKS if rank]


def test_ranks_of_another_network_are_refused():
    with pytest.raises(TrickError, match="ranks are for 2 convolutions, and this network has 7 candidates"):
        resnet9(ranks=(16, 16))


def test_kernels_that_other_tricks_build_are_refused():
    for other in MirrorEquivariance(), Harmonic():
        network = other.model(small_network())
        with pytest.raises(TrickError, match="mirror_equivariance or harmonic"):
            LowRank().model(network)


def test_a_network_without_candidates_is_refused():
    with pytest.raises(TrickError, match="no convolution to factorise"):
        LowRank().model(nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 3, groups=64)))
