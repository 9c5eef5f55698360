import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from tricks import PatchWhitening, TrickError


@pytest.fixture
def images():
    """Correlated, as neighbouring pixels and colours are."""
    noise = torch.randn(60, 3, 14, 14)
    smooth = (
        F.avg_pool2d(noise, 3, stride=1) + 0.3 * noise[..., 1:-1, 1:-1] + 0.5 * noise.mean(dim=1)[:, None, 1:-1, 1:-1]
    )
    return smooth + 0.2


def whitened(images, convolution=None, **options):
    trick = PatchWhitening(**options)
    trick.data(images, torch.zeros(len(images), dtype=torch.int64))
    return trick.model(nn.Sequential(convolution or nn.Conv2d(3, 5, 3, padding=1, bias=False)))


@pytest.mark.parametrize("kernel", [2, 3])
def test_whitened_patches_have_the_identity_as_covariance(images, kernel):
    filters = whitened(images, kernel=kernel, eps=1e-12)[0][0].weight
    assert filters.shape == (3 * kernel**2, 3, kernel, kernel)
    patches = F.conv2d(images, filters).transpose(0, 1).flatten(1)
    torch.testing.assert_close(patches.double().cov(correction=0), torch.eye(3 * kernel**2).double(), rtol=0, atol=1e-4)


def test_eps_damps_the_directions_of_little_variance(images):
    eps = 0.5
    filters = whitened(images, eps=eps)[0][0].weight
    patches = F.conv2d(images, filters).transpose(0, 1).flatten(1).double()
    variance = torch.linalg.eigvalsh(F.unfold(images, 3).transpose(0, 1).flatten(1).double().cov(correction=0))
    torch.testing.assert_close(patches.var(dim=1, correction=0), variance / (variance + eps), rtol=1e-4, atol=1e-6)


def test_a_large_training_set_is_sampled_evenly():
    images = torch.randn(20_001, 3, 4, 4)
    images[1::2] *= 100  # never looked at: every other image is
    filters = whitened(images[:20_000], eps=1e-12)[0][0].weight
    patches = F.conv2d(images[0:20_000:2], filters).transpose(0, 1).flatten(1)
    torch.testing.assert_close(patches.double().cov(correction=0), torch.eye(27).double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("side", [8, 9, 12, 13])
@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 3},
        {"kernel_size": 2},
        {"kernel_size": 5, "padding": "same"},
        {"kernel_size": 5, "padding": "valid", "stride": 2},
        {"kernel_size": 7, "padding": 3, "stride": 2},
        {"kernel_size": 7},
        {"kernel_size": 1},
        {"kernel_size": 3, "dilation": 2, "padding": 2},
        {"kernel_size": (3, 5), "padding": (0, 2), "stride": (2, 1)},
    ],
    ids=str,
)
def test_the_output_size_stays_the_same(side, kernel, options):
    images = torch.randn(2, 3, side, side + 3)
    convolution = nn.Conv2d(3, 5, **options)
    assert whitened(images, convolution, kernel=kernel)(images).shape == convolution(images).shape


def test_equals_fixed_filters_then_a_pointwise_convolution_with_the_stride(images):
    fixed, learned = whitened(images, nn.Conv2d(3, 5, 3, stride=2, padding=1))[0]
    expected = F.conv2d(F.conv2d(images, fixed.weight, padding=1), learned.weight, learned.bias, stride=2)
    torch.testing.assert_close(learned(fixed(images)), expected, rtol=1e-4, atol=1e-5)


def test_only_the_pointwise_convolution_is_trained(images):
    model = whitened(images)
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(5, 27, 1, 1)]
    before = model[0][0].weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=1.0)
    model(images).sum().backward()
    optimizer.step()
    assert torch.equal(model[0][0].weight, before)
    assert torch.equal(model.state_dict()["0.0.weight"], before)


def test_saved_weights_load_into_a_network_that_saw_no_data(images):
    trained = whitened(images, eps=1e-3)
    loaded = PatchWhitening(eps=1e-3).model(nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False)))
    assert not loaded[0][0].weight.any()
    loaded.load_state_dict(copy.deepcopy(trained.state_dict()))
    assert torch.equal(loaded(images), trained(images))


def test_replaces_the_first_convolution_of_the_images_wherever_it_is(images):
    model = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Sequential(nn.Identity(), nn.Conv2d(3, 8, 3)), nn.Conv2d(3, 8, 3))
    trick = PatchWhitening()
    trick.data(images, torch.zeros(len(images), dtype=torch.int64))
    trick.model(model)
    assert isinstance(model[1][1], nn.Sequential)
    assert type(model[0]) is type(model[2]) is nn.Conv2d


def test_keeps_type_mode_and_memory_format(images):
    model = whitened(images, nn.Conv2d(3, 5, 3, padding=1).double().eval())
    assert all(tensor.dtype == torch.float64 for tensor in model.state_dict().values())
    assert not model[0][1].training
    model = whitened(images, kernel=2).to(memory_format=torch.channels_last)
    output = model(images.to(memory_format=torch.channels_last))
    assert output.is_contiguous(memory_format=torch.channels_last)


def test_runs_under_autocast(images):
    with torch.autocast("cpu", torch.bfloat16):
        assert whitened(images)(images).dtype == torch.bfloat16


def test_grey_images_are_whitened_as_well():
    images = torch.randn(10, 1, 8, 8)
    assert whitened(images, nn.Conv2d(1, 5, 3, padding=1))(images).shape == (10, 5, 8, 8)


@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (5, 3), (4, 4)])
def test_a_convolution_of_patches_is_whitened_by_patches_of_its_own(kernel, stride):
    images = F.avg_pool2d(torch.randn(200, 3, 26, 26), 3, stride=1) + 0.1 * torch.randn(200, 3, 24, 24)
    (joined,) = whitened(images, nn.Conv2d(3, 5, kernel, stride=stride, bias=False), kernel=3, eps=1e-12)
    fixed, learned = joined
    patches = F.unfold(images, kernel, stride=stride).transpose(0, 1).flatten(1).double()
    outputs = fixed.weight.flatten(1).double() @ patches
    torch.testing.assert_close(outputs.cov(correction=0), torch.eye(3 * kernel**2).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(joined(images), learned(fixed(images)), rtol=1e-4, atol=1e-4)  # computed as one
    joined(images).square().mean().backward()
    joint = learned.weight.grad.clone()
    learned.weight.grad = None
    learned(fixed(images)).square().mean().backward()
    torch.testing.assert_close(joint, learned.weight.grad, rtol=1e-3, atol=1e-5)
    assert [name for name, _ in joined.named_parameters()] == ["1.weight"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Conv2d(3, 8, 16, stride=16), "kernel 16"),
        (nn.Conv2d(3, 8, 9, stride=4), "stride 4"),
        (nn.Conv2d(3, 8, 9), "kernel 9"),
        (nn.Conv2d(4, 8, 3), "no convolution with 3"),
        (nn.Linear(3, 8), "no convolution with 3"),
    ],
)
def test_other_beginnings_are_refused(model, words):
    with pytest.raises(TrickError, match=words):
        PatchWhitening().model(model)


def test_a_vision_transformer_is_refused():
    with pytest.raises(TrickError, match="kernel 16 and stride 16"):
        PatchWhitening().model(timm.create_model("vit_tiny_patch16_224", img_size=32))


def test_a_convolution_that_pads_by_itself_is_refused():
    with pytest.raises(TrickError, match="Conv2dSame"):
        PatchWhitening().model(timm.create_model("tf_mobilenetv3_small_minimal_100"))


def test_images_smaller_than_a_patch_are_refused():
    with pytest.raises(TrickError, match="3×3"):
        PatchWhitening().data(torch.randn(4, 3, 2, 8), torch.zeros(4, dtype=torch.int64))
