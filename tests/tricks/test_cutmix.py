import numpy as np
import pytest
import torch

from tricks import Batch, Cutmix, TrickError


def cut(trick, count=64, side=16, progress=0.0):
    """Images that are their own number in every pixel, so that the pixels tell where they come from."""
    images = torch.arange(count).float()[:, None, None, None].expand(count, 3, side, side).contiguous()
    return images, trick.batch(Batch(images, torch.arange(count), progress, classes=count))


def test_targets_are_the_shares_of_the_pixels():
    _, result = cut(Cutmix(probability=1.0))
    for number, (image, target) in enumerate(zip(result.images, result.targets, strict=True)):
        for other in image[0].unique().long().tolist():
            share = (image[0] == other).float().mean()
            torch.testing.assert_close(target[other], share)
        torch.testing.assert_close(target.sum(), torch.tensor(1.0))
        assert torch.equal(image[0], image[1])  # in all channels alike
        foreign = image[0] != number
        assert torch.equal(foreign, foreign.any(1)[:, None] & foreign.any(0)[None])  # one rectangle


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_areas_are_distributed_as_published(alpha):
    """Against the paper's procedure, drawn with numpy on a continuous image."""
    side = 64
    _, result = cut(Cutmix(alpha, probability=1.0), count=3000, side=side)
    own = torch.arange(3000).float()[:, None, None]
    ours = (result.images[:, 0] != own).float().mean((1, 2)).numpy()
    random = np.random.default_rng(0)
    length = np.sqrt(1 - random.beta(alpha, alpha, 100_000))
    centres = random.random((2, 100_000))
    edges = np.clip(centres + length / 2, 0, 1) - np.clip(centres - length / 2, 0, 1)
    theirs = edges.prod(0)
    for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert np.quantile(ours, quantile) == pytest.approx(np.quantile(theirs, quantile), abs=0.04)


def test_as_many_are_cut_as_told():
    _, result = cut(Cutmix(probability=0.3), count=3000)
    mixed = (result.targets.max(1).values < 1).float().mean().item()
    assert 0.22 < mixed < 0.31  # some rectangles hold no pixel's middle
    images, result = cut(Cutmix(probability=0.0))
    assert torch.equal(result.images, images)


def test_it_ends_when_told():
    trick = Cutmix(probability=1.0, until=0.8)
    images, result = cut(trick, progress=0.8)
    assert result.images is images
    assert not result.targets.is_floating_point()
    assert not torch.equal(cut(trick, progress=0.79)[1].images, images)


def test_probabilities_may_be_mixed_again():
    targets = torch.rand(5, 3).softmax(dim=1)
    result = Cutmix().batch(Batch(torch.randn(5, 3, 8, 8), targets))
    torch.testing.assert_close(result.targets.sum(dim=1), torch.ones(5))


def test_without_the_number_of_classes_it_says_so():
    with pytest.raises(TrickError, match="classes"):
        Cutmix().batch(Batch(torch.randn(4, 3, 8, 8), torch.arange(4)))


def test_type_and_memory_format_stay():
    images = torch.randn(4, 3, 8, 8).to(torch.bfloat16, memory_format=torch.channels_last)
    result = Cutmix().batch(Batch(images, torch.arange(4), classes=4)).images
    assert result.dtype == torch.bfloat16
    assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("told", [{"alpha": 0.0}, {"probability": 1.5}, {"until": -0.1}])
def test_bad_hyperparameters(told):
    with pytest.raises(TrickError):
        Cutmix(**told)
