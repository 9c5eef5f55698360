import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from tricks import Batch, TrickError, TrivialAugment
from tricks.trivial_augment import BLENDS, CHANGES, MOVES, OPERATIONS

COUNT = 32


@pytest.fixture
def pictures() -> np.ndarray:
    """Colour pictures with edges and slopes, uint8 [32, 24, 24, 3]; one is of a single colour."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (COUNT, 6, 6, 3), dtype=np.uint8)
    large = [np.asarray(Image.fromarray(each).resize((24, 24), Image.Resampling.BICUBIC)) for each in coarse]
    large[0] = np.full_like(large[0], 90)
    return np.stack(large)


MAGNITUDES = torch.linspace(-1, 1, COUNT)


def changed(name: str, pictures: np.ndarray, magnitudes: torch.Tensor, empty: float = 0.5) -> torch.Tensor:
    """The pictures by one operation, between 0 and 1, [N, 3, S, S]."""
    names, change = next((names, change) for names, change in CHANGES.items() if name in names)
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
    counts = [len(images) if each == name else 0 for each in names]
    return change(images, magnitudes, counts, torch.full((1, 3, 1, 1), empty))


PILLOW = {
    "brightness": lambda picture, m: ImageEnhance.Brightness(picture).enhance(1 + 0.99 * m),
    "colour": lambda picture, m: ImageEnhance.Color(picture).enhance(1 + 0.99 * m),
    "contrast": lambda picture, m: ImageEnhance.Contrast(picture).enhance(1 + 0.99 * m),
    "sharpness": lambda picture, m: ImageEnhance.Sharpness(picture).enhance(1 + 0.99 * m),
    "posterize": lambda picture, m: ImageOps.posterize(picture, 8 - round(6 * abs(m))),
    "solarize": lambda picture, m: ImageOps.solarize(picture, int(np.ceil(255 * (1 - abs(m))))),
    "autocontrast": lambda picture, m: ImageOps.autocontrast(picture),
    "equalize": lambda picture, m: ImageOps.equalize(picture),
}


@pytest.mark.parametrize("name", PILLOW)
def test_colours_change_as_pillow_changes_them(name, pictures):
    expected = [
        PILLOW[name](Image.fromarray(picture), float(m)) for picture, m in zip(pictures, MAGNITUDES, strict=True)
    ]
    found = 255 * changed(name, pictures, MAGNITUDES).permute(0, 2, 3, 1)
    # Pillow rounds to whole numbers once or twice
    np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=1.6)


def test_shifts_and_turns_move_pixels_where_they_should(pictures):
    side = pictures.shape[1]
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
    third = torch.full((COUNT,), 1 / 3)
    left = changed("translate_x", pictures, third)
    torch.testing.assert_close(left[..., : -side // 3], images[..., side // 3 :], rtol=0, atol=1e-4)
    assert (left[..., -side // 3 + 1 :] == 0.5).all()  # what is empty has the mean colour
    up = changed("translate_y", pictures, third)
    torch.testing.assert_close(up[..., : -side // 3, :], images[..., side // 3 :, :], rtol=0, atol=1e-4)
    quarter = changed("rotate", pictures, torch.full((COUNT,), 90 / 135))
    torch.testing.assert_close(quarter, torch.rot90(images, 1, (2, 3)), rtol=0, atol=1e-4)


def test_a_shear_shifts_each_row_or_column_by_its_distance_from_the_centre():
    """A ramp is sheared into a ramp, exactly, but for the pixels that come from outside."""
    side = 24
    place = torch.arange(side) - (side - 1) / 2
    ramp = (place / side + 0.5).repeat(side, 1)
    images = torch.stack([ramp, ramp, ramp])[None]
    magnitude = torch.tensor([0.3])
    sheared, transposed = (
        CHANGES[MOVES](each, magnitude, [int(name == chosen) for chosen in MOVES], torch.zeros(1, 3, 1, 1))
        for name, each in (("shear_x", images), ("shear_y", images.mT))
    )
    expected = (place[None] + 0.99 * 0.3 * place[:, None]) / side + 0.5
    inside = (expected > 1 / side) & (expected < 1 - 1 / side)
    assert inside.sum() > 400
    torch.testing.assert_close(sheared[0, 0][inside], expected[inside])
    torch.testing.assert_close(transposed.mT, sheared)


def test_one_image_in_fourteen_stays_and_another_one_in_every_step():
    torch.manual_seed(0)
    count = 10 * len(OPERATIONS)
    images = torch.rand(count, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    trick = TrivialAugment()
    trick.data(images, torch.zeros(count))
    shares = []
    for _ in range(30):
        result = trick.batch(Batch(images, torch.zeros(count))).images
        assert result.is_contiguous(memory_format=torch.channels_last)
        same = (result - images).abs().amax((1, 2, 3)) < 1e-6
        assert 10 <= same.sum() < 40  # identity, and magnitudes near 0 of posterize and solarize
        shares.append(same.float())
    assert torch.stack(shares).mean(0).max() < 0.7


def test_a_weaker_trick_changes_less(pictures):
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255

    def mean_change(strength):
        torch.manual_seed(0)
        trick = TrivialAugment(strength)
        trick.data(images, torch.zeros(COUNT))
        # autocontrast and equalize have no magnitude
        return sum((trick.batch(Batch(images, torch.zeros(COUNT))).images - images).abs().mean() for _ in range(30))

    changes = [float(mean_change(strength)) for strength in (0.01, 0.3, 1.0)]
    assert changes[0] < 0.6 * changes[1]
    assert changes[1] < 0.8 * changes[2]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("count", [1, 3, 29])
def test_batches_of_any_size_and_colours_work(channels, count):
    images = torch.randn(count, channels, 8, 8)
    trick = TrivialAugment()
    trick.data(images, torch.zeros(count))
    for _ in range(15):  # every operation comes first once
        result = trick.batch(Batch(images, torch.zeros(count))).images
        assert result.shape == images.shape
        low, high = images.amin((0, 2, 3)), images.amax((0, 2, 3))
        assert (result.amin((0, 2, 3)) >= low - 1e-5).all()
        assert (result.amax((0, 2, 3)) <= high + 1e-5).all()


def test_the_global_seed_decides(make_batch):
    batch = make_batch(40)
    trick = TrivialAugment()
    trick.data(batch.images, batch.targets)
    results = []
    for seed in 1, 1, 2:
        torch.manual_seed(seed)
        results.append(trick.batch(batch).images)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_without_the_training_images_it_says_what_to_do(make_batch):
    with pytest.raises(TrickError, match=r"call data\(\)"):
        TrivialAugment().batch(make_batch())


def test_the_operations_are_those_of_the_paper():
    assert len(OPERATIONS) == 14
    assert [name for names in CHANGES for name in names] == list(OPERATIONS[1:])
    assert set(MOVES) | set(BLENDS) < set(OPERATIONS)
