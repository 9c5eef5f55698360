import pytest
import torch
from torch.nn import functional as F

from tricks import RandomCrop


def offsets(image, cropped, padding):
    """Where in the padded image the crop lies: every place that fits."""
    height, width = image.shape[1:]
    padded = F.pad(image[None], (padding[1],) * 2 + (padding[0],) * 2, mode="reflect")[0]
    return [
        (y, x)
        for y in range(2 * padding[0] + 1)
        for x in range(2 * padding[1] + 1)
        if torch.equal(padded[:, y : y + height, x : x + width], cropped)
    ]


@pytest.mark.parametrize(("height", "width", "padding"), [(16, 16, 4), (9, 13, 2), (6, 6, 4), (8, 8, 1)])
def test_every_output_is_a_crop_of_the_reflected_image(make_batch, height, width, padding):
    images = torch.randn(40, 3, height, width)
    batch = make_batch()._replace(images=images)
    result = RandomCrop(padding).batch(batch)
    found = [offsets(i, c, (padding, padding)) for i, c in zip(images, result.images, strict=True)]
    assert all(len(place) == 1 for place in found)
    assert len({place[0] for place in found}) > min(5, padding * 4)
    assert result.targets is batch.targets


@pytest.mark.parametrize(("side", "largest"), [(32, 2), (48, 3), (64, 4), (224, 14)])
def test_the_padding_is_a_share_of_a_large_image(make_batch, side, largest):
    columns = torch.arange(side, dtype=torch.float32).expand(300, 3, side, side)
    middle = RandomCrop(2).batch(make_batch()._replace(images=columns)).images[:, 0, 0, side // 2]
    assert set((middle - side // 2).int().tolist()) == set(range(-largest, largest + 1))


def test_all_offsets_are_equally_likely(make_batch):
    images = torch.arange(25.0).view(1, 1, 5, 5).expand(9000, 3, 5, 5)
    result = RandomCrop(1).batch(make_batch()._replace(images=images)).images
    counts = result[:, 0, 2, 2].unique(return_counts=True)[1]  # the centre tells the offset
    assert len(counts) == 9
    assert ((counts - 1000).abs() < 5 * 1000**0.5).all()


def test_small_images_are_padded_as_far_as_they_reflect(make_batch):
    images = torch.randn(30, 3, 3, 2)
    result = RandomCrop(4).batch(make_batch()._replace(images=images)).images
    assert all(offsets(i, c, (2, 1)) for i, c in zip(images, result, strict=True))
    pixel = torch.randn(5, 3, 1, 1)
    assert torch.equal(RandomCrop(4).batch(make_batch()._replace(images=pixel)).images, pixel)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_the_output_is_channels_last(make_batch, memory_format):
    images = torch.randn(4, 3, 8, 8).to(memory_format=memory_format)
    result = RandomCrop().batch(make_batch()._replace(images=images)).images
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_the_global_seed_decides(make_batch):
    batch = make_batch()
    results = []
    for seed in 1, 1, 2:
        torch.manual_seed(seed)
        results.append(RandomCrop().batch(batch).images)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
