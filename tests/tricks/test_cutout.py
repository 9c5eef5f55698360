import pytest
import torch

from tricks import Cutout


@pytest.mark.parametrize(("size", "height", "width"), [(8, 32, 32), (5, 12, 20), (1, 6, 6), (40, 16, 16)])
def test_one_square_clipped_at_the_borders(make_batch, size, height, width):
    images = torch.randn(3000, 3, height, width).abs() + 1
    result = Cutout(size).batch(make_batch()._replace(images=images)).images
    blank = result == 0
    assert torch.equal(blank, blank[:, :1].expand_as(blank))  # in all channels alike
    assert torch.equal(result[~blank], images[~blank])
    rows, columns = blank[:, 0].any(dim=2), blank[:, 0].any(dim=1)
    assert torch.equal(blank[:, 0], rows[:, :, None] & columns[:, None, :])  # a rectangle
    for covered, side in (rows, height), (columns, width):
        # the centre is uniform, so of all possible ones each place sees as many as reach it
        expected = [
            sum(centre - size // 2 <= place < centre - size // 2 + size for centre in range(side)) / side
            for place in range(side)
        ]
        torch.testing.assert_close(covered.float().mean(dim=0), torch.tensor(expected), rtol=0, atol=0.05)
        edges = covered.int().diff(dim=1).abs().sum(dim=1)
        assert edges.max() <= 2  # in one piece
        assert covered.sum(dim=1).max() == min(size, side)


@pytest.mark.parametrize(("side", "size"), [(32, 8), (48, 12), (64, 16), (16, 8)])
def test_the_square_is_a_share_of_a_large_image(make_batch, side, size):
    batch = make_batch()._replace(images=torch.ones(200, 3, side, side))
    widths = (Cutout(8).batch(batch).images[:, 0] == 0).any(dim=1).sum(dim=1)
    assert widths.max() == size


def test_images_differ_and_targets_stay(make_batch):
    batch = make_batch(50, side=32)
    result = Cutout(8).batch(batch)
    assert len({tuple((image[0] == 0).flatten().tolist()) for image in result.images}) > 40
    assert result.targets is batch.targets


def test_channels_last_stays(make_batch):
    batch = make_batch()
    batch = batch._replace(images=batch.images.to(memory_format=torch.channels_last))
    assert Cutout(4).batch(batch).images.is_contiguous(memory_format=torch.channels_last)
