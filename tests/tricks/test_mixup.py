import pytest
import torch
from torch.nn import functional as F

from tricks import Batch, Mixup, TrickError


def mixed(alpha, count=6, classes=6):
    """A batch in which the target tells which image it is, mixed."""
    images = torch.randn(count, 3, 2, 2)
    batch = Batch(images, torch.arange(count), classes=classes)
    return images, Mixup(alpha).batch(batch)


def test_images_and_targets_are_mixed_alike():
    for _ in range(20):
        images, result = mixed(alpha=1.0)
        blend = torch.einsum("bk,kchw->bchw", result.targets, images)  # by what the targets say
        torch.testing.assert_close(result.images, blend)
        torch.testing.assert_close(result.targets.sum(dim=1), torch.ones(6))
        torch.testing.assert_close(result.targets.sum(dim=0), torch.ones(6))  # partners are a permutation


def test_one_share_a_batch_of_the_published_distribution():
    alpha, shares = 0.4, []
    for _ in range(4000):
        _, result = mixed(alpha, count=2, classes=2)
        diagonal = result.targets.diagonal()
        assert diagonal[0] == diagonal[1]
        if diagonal[0] < 1 - 1e-6:  # else each was paired with itself
            shares.append(diagonal[0].item())
    shares = torch.tensor(shares)
    assert len(shares) == pytest.approx(2000, abs=300)
    assert shares.mean().item() == pytest.approx(0.5, abs=0.04)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.02)


def test_probabilities_may_be_mixed_again():
    targets = torch.rand(5, 3).softmax(dim=1)
    result = Mixup(1.0).batch(Batch(torch.randn(5, 3, 2, 2), targets))
    torch.testing.assert_close(result.targets.sum(dim=1), torch.ones(5))
    torch.testing.assert_close(result.targets.sum(dim=0), targets.sum(dim=0))


def test_the_targets_suit_cross_entropy():
    images, result = mixed(alpha=0.2)
    logits = images.mean(dim=(2, 3)) @ torch.randn(3, 6)
    expected = -(result.targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(F.cross_entropy(logits, result.targets), expected)


def test_without_the_number_of_classes_it_says_so():
    with pytest.raises(TrickError, match="classes"):
        Mixup().batch(Batch(torch.randn(4, 3, 2, 2), torch.arange(4)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_type_and_memory_format_stay(dtype):
    images = torch.randn(4, 3, 8, 8).to(dtype, memory_format=torch.channels_last)
    result = Mixup().batch(Batch(images, torch.arange(4), classes=4)).images
    assert result.dtype == dtype
    assert result.is_contiguous(memory_format=torch.channels_last)
