import copy

import pytest
import timm
import torch
from torch import nn

from tricks import GhostBatchNorm, TrickError, frozen_statistics


def ghost(norm, **options):
    return GhostBatchNorm(**options).model(nn.Sequential(copy.deepcopy(norm)))[0]


@pytest.fixture
def norm():
    norm = nn.BatchNorm2d(5, momentum=0.3)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize(("count", "splits"), [(16, 4), (16, 16), (10, 4), (3, 16), (1, 16), (16, 1)])
def test_equals_a_loop_of_batch_norms_over_chunks(norm, count, splits):
    images = torch.randn(count, 5, 4, 4, requires_grad=True)
    copied = images.detach().clone().requires_grad_()
    ours = ghost(norm, splits=splits)
    parts = [norm(part) for part in copied.chunk(splits)]
    output = ours(images)
    torch.testing.assert_close(output, torch.cat(parts))
    upstream = torch.randn_like(output)
    output.backward(upstream)
    torch.cat(parts).backward(upstream)
    torch.testing.assert_close(images.grad, copied.grad)
    torch.testing.assert_close(ours.weight.grad, norm.weight.grad)
    torch.testing.assert_close(ours.bias.grad, norm.bias.grad)


@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
def test_one_batch_weighs_the_momentum_in_the_running_statistics(norm, momentum):
    norm.momentum = momentum
    ours, plain = ghost(norm, splits=4), ghost(norm, splits=1)
    part = torch.randn(4, 5, 3, 3)
    images = part.repeat(4, 1, 1, 1)  # all groups alike
    for _ in range(3):
        ours(images)
        plain(part)
    torch.testing.assert_close(ours.running_mean, plain.running_mean)
    torch.testing.assert_close(ours.running_var, plain.running_var)
    assert ours.num_batches_tracked == plain.num_batches_tracked == 3


def test_every_group_counts_in_the_running_statistics(norm):
    """With a small momentum almost alike: the mean over the groups, not the last one."""
    norm.momentum = 1e-3
    ours = ghost(norm, splits=4)
    images = torch.randn(16, 5, 4, 4) + torch.arange(4).repeat_interleave(4)[:, None, None, None]
    ours(images)
    means = torch.stack([part.mean(dim=(0, 2, 3)) for part in images.chunk(4)]).mean(dim=0)
    torch.testing.assert_close(ours.running_mean / 1e-3, means, rtol=2e-3, atol=2e-3)


def test_prediction_is_plain_batch_norm(norm):
    norm.running_mean.normal_()
    images = torch.randn(8, 5, 4, 4)
    ours = ghost(norm).eval()
    assert torch.equal(ours(images), norm.eval()(images))


def test_frozen_statistics_are_respected(norm):
    ours = ghost(norm, splits=4)
    before = copy.deepcopy(ours.state_dict())
    images = torch.randn(8, 5, 4, 4)
    with frozen_statistics(ours):
        frozen = ours(images)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())
    assert torch.equal(frozen, ours(images))


def test_without_scale_the_weight_is_one_and_not_trained(norm):
    ours = ghost(norm, splits=2, scale=False)
    assert torch.equal(ours.weight, torch.ones(5))
    assert not ours.weight.requires_grad
    assert ours.bias.requires_grad
    assert torch.equal(ours.bias, norm.bias)


def test_single_pixels_are_grouped_by_two_at_least(norm):
    images = torch.randn(7, 5, 1, 1)
    output = ghost(norm, splits=16)(images)
    torch.testing.assert_close(output, torch.cat([norm(part) for part in images.split([3, 2, 2])]))


def test_half_precision_and_channels_last_go_through(norm):
    images = torch.randn(8, 5, 4, 4).to(torch.bfloat16, memory_format=torch.channels_last)
    ours = ghost(norm, splits=4)
    output = ours(images)
    assert output.dtype == torch.bfloat16
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert ours.running_mean.dtype == torch.float32


def test_without_parameters_or_statistics(norm):
    bare = ghost(nn.BatchNorm2d(5, affine=False, track_running_stats=False), splits=2, scale=False)
    images = torch.randn(4, 5, 3, 3)
    plain = nn.BatchNorm2d(5, affine=False)
    torch.testing.assert_close(bare(images), torch.cat([plain(part) for part in images.chunk(2)]))


def test_mode_and_weights_are_kept(norm):
    assert not ghost(norm.eval()).training
    original = nn.Sequential(norm)
    weight = norm.weight
    assert GhostBatchNorm().model(original)[0].weight is weight


def test_activations_inside_timm_batch_norms_are_kept():
    plain = timm.create_model("mobilenetv2_050", num_classes=3)
    ours = GhostBatchNorm(splits=1).model(copy.deepcopy(plain))
    assert not any(type(module).__name__ == "BatchNormAct2d" for module in ours.modules())
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(ours(images), plain(images))
    torch.testing.assert_close(ours.eval()(images), plain.eval()(images))


def test_a_network_without_batch_norm_is_refused():
    with pytest.raises(TrickError, match=r"no nn\.BatchNorm2d"):
        GhostBatchNorm().model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)))
