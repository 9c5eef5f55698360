import pytest
import torch
from torch.nn import functional as F

from tricks import ProgressiveResizing


@pytest.mark.parametrize(
    ("full", "progress", "side"),
    [(32, 0, 16), (32, 0.3999, 16), (32, 0.4, 24), (32, 0.75, 32), (32, 1, 32), (30, 0.5, 24), (30, 1, 30), (5, 0, 4)],
)
def test_side_by_progress(full, progress, side):
    assert ProgressiveResizing().side(full, progress) == side


def test_never_larger_than_the_images_and_never_below_four():
    trick = ProgressiveResizing(scales=(0.01, 0.99), until=(0.5,))
    assert trick.side(32, 0) == 4
    assert trick.side(3, 0) == 3
    assert trick.side(33, 1) == 32


def test_shrinks_with_antialiasing(make_batch):
    batch = make_batch(side=16, progress=0.1)
    result = ProgressiveResizing().batch(batch)
    expected = F.interpolate(batch.images, (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(result.images, expected)
    checkers = torch.ones(1, 3, 16, 16)
    checkers[..., ::2, 1::2] = checkers[..., 1::2, ::2] = -1
    shrunk = ProgressiveResizing().batch(batch._replace(images=checkers)).images
    assert shrunk[..., 1:-1, 1:-1].abs().max() < 0.1  # aliasing would leave a pattern
    assert result.targets is batch.targets


def test_full_size_is_passed_on_untouched(make_batch):
    batch = make_batch(progress=0.9)
    assert ProgressiveResizing().batch(batch) is batch


def test_both_sides_shrink_and_channels_last_stays(make_batch):
    images = torch.randn(2, 3, 16, 32).to(memory_format=torch.channels_last)
    result = ProgressiveResizing().batch(make_batch()._replace(images=images)).images
    assert result.shape == (2, 3, 8, 16)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_a_single_scale_needs_no_progress():
    assert ProgressiveResizing(scales=(0.5,), until=()).side(32, 0.9) == 16
