import math

import pytest
import torch

from tricks import RandomResizedCrop, TrickError


def rectangles(make_batch, side, count=2000, **options):
    """Top, bottom, left and right of each crop, in shares of the image, read off images that hold their own positions.

    Bilinear sampling of a linear ramp is exact, except within half a pixel of the border, where it stays constant.
    """
    position = (torch.arange(side) + 0.5) / side
    ramps = torch.stack([position[:, None].expand(side, side), position.expand(side, side)])
    batch = make_batch()._replace(images=ramps.expand(count, 2, side, side))
    rows, columns = RandomResizedCrop(**options).batch(batch).images.unbind(1)
    found = []
    for lines in rows[:, :, side // 2], columns[:, side // 2]:
        quarter, third = lines[:, side // 4], lines[:, 3 * side // 4]
        share = (third - quarter) * side / (3 * side // 4 - side // 4)
        start = quarter - share * (side // 4 + 0.5) / side
        found += [start, start + share]
    return found


@pytest.mark.parametrize(("scale", "ratio"), [(0.35, 1.33), (0.1, 2.0), (0.8, 1.0)])
def test_the_rectangle_lies_in_the_image_and_has_the_area_and_shape_asked_for(make_batch, scale, ratio):
    top, bottom, left, right = rectangles(make_batch, 64, scale=scale, ratio=ratio)
    for start, end in (top, bottom), (left, right):
        assert start.min() > -1e-3
        assert end.max() < 1 + 1e-3
    height, width = bottom - top, right - left
    area, aspect = height * width, (height / width).log()
    assert area.max() < 1 + 1e-3
    assert aspect.abs().max() < math.log(ratio) + 1e-3
    uncut = (height < 0.999) & (width < 0.999)
    assert area[uncut].min() > scale - 1e-3
    assert area.min() < scale + 0.05
    torch.testing.assert_close(aspect.mean(), torch.tensor(0.0), rtol=0, atol=0.03)
    room = (top / (1 - height))[height < 0.9]
    torch.testing.assert_close(room.mean(), torch.tensor(0.5), rtol=0, atol=0.05)  # anywhere, evenly
    assert room.min() < 0.1
    assert room.max() > 0.9


def test_the_whole_image_stays_as_it_is(make_batch):
    batch = make_batch(side=16)
    result = RandomResizedCrop(scale=1, ratio=1).batch(batch)
    torch.testing.assert_close(result.images, batch.images, rtol=0, atol=1e-5)
    assert result.targets is batch.targets
    assert result.images.is_contiguous(memory_format=torch.channels_last)


def test_the_global_seed_decides(make_batch):
    batch = make_batch()
    results = []
    for seed in 1, 1, 2:
        torch.manual_seed(seed)
        results.append(RandomResizedCrop().batch(batch).images)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    "options", [{"scale": 0}, {"scale": 1.5}, {"scale": float("nan")}, {"ratio": 0.5}, {"ratio": math.inf}], ids=str
)
def test_bad_values_are_refused(options):
    with pytest.raises(TrickError):
        RandomResizedCrop(**options)
