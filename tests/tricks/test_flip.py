import pytest
import torch

from tricks import Flip


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_mirrors_that_share_of_the_images_and_leaves_the_rest(make_batch, probability):
    batch = make_batch(2000, side=4)
    result = Flip(probability).batch(batch)
    mirrored = (result.images == batch.images.flip(-1)).flatten(1).all(dim=1)
    kept = (result.images == batch.images).flatten(1).all(dim=1)
    assert (mirrored ^ kept).all()
    assert mirrored.float().mean().item() == pytest.approx(probability, abs=0.05)
    assert result.targets is batch.targets


def test_channels_last_stays(make_batch):
    batch = make_batch()
    batch = batch._replace(images=batch.images.to(memory_format=torch.channels_last))
    assert Flip().batch(batch).images.is_contiguous(memory_format=torch.channels_last)
