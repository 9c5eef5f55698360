import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tricks import TestTimeAugmentation


@pytest.fixture
def forward():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 6, 5), nn.Tanh())


def test_mirror_is_the_average_of_two_views(forward):
    images = torch.randn(4, 3, 8, 6)
    expected = (forward(images) + forward(images.flip(3))) / 2
    torch.testing.assert_close(TestTimeAugmentation().prediction(forward)(images), expected)


def test_mirror_and_shift_is_the_weighted_average_of_six_views(forward):
    images = torch.randn(4, 3, 8, 6)
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    expected = torch.zeros(4, 5)
    for weight, (y, x) in (0.5, (1, 1)), (0.25, (0, 0)), (0.25, (2, 2)):
        view = padded[:, :, y : y + 8, x : x + 6]
        expected += weight / 2 * (forward(view) + forward(view.flip(3)))
    torch.testing.assert_close(TestTimeAugmentation("mirror+shift").prediction(forward)(images), expected)


def test_shift_is_the_weighted_average_of_three_views_none_of_them_mirrored(forward):
    images = torch.randn(4, 3, 8, 6)
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    expected = forward(images) / 2 + (forward(padded[:, :, :8, :6]) + forward(padded[:, :, 2:, 2:])) / 4
    torch.testing.assert_close(TestTimeAugmentation("shift").prediction(forward)(images), expected)


@pytest.mark.parametrize(("side", "shift"), [(32, 1), (48, 2), (64, 2), (128, 4)])
def test_the_shift_is_a_share_of_a_large_image(side, shift):
    images = torch.randn(2, 3, side, side)
    seen = []
    TestTimeAugmentation("mirror+shift").prediction(lambda view: seen.append(view) or view.mean((1, 2, 3)))(images)
    assert sum(torch.equal(view[..., shift:, shift:], images[..., :-shift, :-shift]) for view in seen) == 1
    assert sum(torch.equal(view[..., :-shift, :-shift], images[..., shift:, shift:]) for view in seen) == 1


def test_a_mirrored_image_gets_the_same_prediction(make_network):
    model, images = make_network().eval(), torch.randn(4, 3, 8, 8)
    predict = TestTimeAugmentation().prediction(model)
    torch.testing.assert_close(predict(images.flip(3)), predict(images))
    assert not torch.allclose(model(images.flip(3)), model(images), atol=1e-4)
