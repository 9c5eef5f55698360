"""ResNet-9's shape, and the statistics that go with the weights."""

import numpy as np
import pytest
import torch

from speedtrain.errors import UserError
from speedtrain.network.classifier import Classifier, build_classifier
from speedtrain.network.resnet9 import ResNet9, stem_stride
from tricks import TRICKS, Batch, PatchWhitening


def test_the_papers_network_has_the_known_number_of_parameters() -> None:
    # counted by hand: 3·64·9 + 64·128·9 + 2·128²·9 + 128·256·9 + 256·512·9 + 2·512²·9, norms 2 a channel, head
    convolutions = 9 * (3 * 64 + 64 * 128 + 2 * 128**2 + 128 * 256 + 256 * 512 + 2 * 512**2)
    norms = 2 * (64 + 3 * 128 + 256 + 3 * 512)
    total = sum(parameter.numel() for parameter in ResNet9(10, width=64).parameters())
    assert total == convolutions + norms + 512 * 10


def test_pooling_comes_before_batch_norm() -> None:
    seen = []
    network = ResNet9(10, width=8).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[1:])))
    network(torch.randn(2, 3, 32, 32))
    stages = [(8, 32, 32), (16, 16, 16), (16, 16, 16), (16, 16, 16), (32, 8, 8), (64, 4, 4), (64, 4, 4), (64, 4, 4)]
    assert seen == stages


@pytest.mark.parametrize(
    ("side", "positions"), [(32, 32), (48, 48), (64, 32), (96, 48), (100, 50), (128, 32), (224, 37), (512, 36)]
)
def test_large_images_have_a_stage_more_and_a_stem_that_strides(side: int, positions: int) -> None:
    """Every pixel counts, and stage 1 sees about as many positions as of a small image."""
    images = torch.randn(2, 3, side, side, requires_grad=True)
    network = ResNet9(10, 8, side=side)
    maps = network.stage0(network.prep(images))
    assert maps.shape[1:] == (8, positions, positions)
    assert network(images).shape == (2, 10)
    maps.square().sum().backward()
    assert images.grad is not None
    seen = images.grad.abs().sum((0, 1)) > 0
    assert seen[: side // stem_stride(side) * stem_stride(side), 0].all()


def test_logits_are_scaled() -> None:
    torch.manual_seed(0)
    network = ResNet9(10, width=8, head_scale=0.125).eval()
    images = torch.randn(2, 3, 32, 32)
    scaled = network(images)
    network.head_scale = 1.0
    torch.testing.assert_close(network(images) / 8, scaled)


def test_normalising_the_training_images_gives_mean_0_and_deviation_1() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(20, 200, (50, 32, 32, 3), dtype=np.uint8))
    classifier = Classifier(torch.nn.Identity())
    classifier.measure(images)
    normalised = classifier.normalise(images)
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalised.std((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-4, rtol=0)
    assert normalised.is_contiguous(memory_format=torch.channels_last)


def test_constant_images_stay_finite() -> None:
    classifier = Classifier(torch.nn.Identity())
    images = torch.full((4, 32, 32, 3), 255, dtype=torch.uint8)
    classifier.measure(images)
    assert classifier.normalise(images).isfinite().all()


@pytest.mark.parametrize("side", [32, 64, 256])
def test_weights_alone_give_the_network_its_eyes(side: int) -> None:
    """Built without images and loaded, a classifier predicts as the one that took statistics from images."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (20, side, side, 3), dtype=np.uint8))
    trained = build_classifier("resnet9", 10, 8, 0.125, [PatchWhitening()], images, side).eval()
    loaded = build_classifier("resnet9", 10, 8, 0.125, [PatchWhitening()], None, side).eval()
    loaded.load_state_dict(trained.state_dict())
    torch.testing.assert_close(
        loaded(loaded.normalise(images[:5])), trained(trained.normalise(images[:5])), rtol=0, atol=0
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_everything_is_built_where_the_images_are() -> None:
    tricks = [TRICKS[name]() for name in ("patch_whitening", "celu", "random_crop", "flip", "cutout")]
    images = torch.randint(0, 256, (64, 32, 32, 3), dtype=torch.uint8, device="cuda")
    classifier = build_classifier("resnet9", 10, 8, 0.125, tricks, images).to("cuda")
    batch = Batch(classifier.normalise(images[:8]), torch.zeros(8, dtype=torch.int64, device="cuda"))
    for trick in tricks:
        batch = trick.batch(batch)
    assert classifier(batch.images).device.type == "cuda"


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k", "vit_tiny_patch16_224", "swinv2_tiny_window8_256"])
def test_a_timm_model_is_built_for_the_classes_and_the_side_there_are(name: str, side: int) -> None:
    classifier = build_classifier(f"timm:{name}", 7, 0, 0.125, [], None, side).eval()
    assert classifier(torch.randn(2, 3, side, side)).shape == (2, 7)


def test_an_unknown_timm_model_is_refused_with_a_hint() -> None:
    with pytest.raises(UserError, match="no model 'resnet18x'; did you mean resnet18"):
        build_classifier("timm:resnet18x", 10, 0, 0.125, [], None)
