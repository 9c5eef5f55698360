"""3×3 convolutions computed in other ways: against torch's, and where each of them is used."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from speedtrain.network import convolution
from speedtrain.network.convolution import Conv3x3, PatchProduct, Winograd


def agree(ours: Tensor, theirs: Tensor, wanted: tuple[Tensor, ...], precision: dict[str, float]) -> None:
    """Values, and gradients with respect to what is wanted."""
    torch.testing.assert_close(ours, theirs, **precision)
    gradient = torch.randn_like(theirs)
    mine, others = (torch.autograd.grad(result, wanted, gradient) for result in (ours, theirs))
    for one, other in zip(mine, others, strict=True):
        torch.testing.assert_close(one, other, **precision)


EXACT: dict[str, float] = {"atol": 1e-10, "rtol": 1e-10}


@pytest.mark.parametrize("side", [(4, 4), (3, 2), (1, 1)])
def test_a_product_of_patches_is_the_convolution(side: tuple[int, int]) -> None:
    torch.manual_seed(0)
    maps = torch.randn(5, 6, *side, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 6, 3, 3, dtype=torch.float64, requires_grad=True)
    ours = PatchProduct.apply(maps, weight)
    agree(ours, F.conv2d(maps, weight, padding=1), (maps, weight), EXACT)
    assert ours.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("side", [(4, 4), (8, 4), (12, 20)])
def test_winograds_is_the_convolution(side: tuple[int, int]) -> None:
    torch.manual_seed(0)
    maps = torch.randn(3, 6, *side, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 6, 3, 3, dtype=torch.float64, requires_grad=True)
    ours = Winograd.apply(maps, weight)
    agree(ours, F.conv2d(maps, weight, padding=1), (maps, weight), EXACT)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_winograds_is_the_convolution_in_float32() -> None:
    """To some units in the sixth place of the typical value: its transforms add and subtract larger ones."""
    torch.manual_seed(0)
    maps = torch.randn(16, 128, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    weight = (torch.randn(64, 128, 3, 3) / (9 * 128) ** 0.5).requires_grad_()
    exact = F.conv2d(maps.double(), weight.double(), padding=1)
    gradient = torch.randn_like(exact)
    ours = Winograd.apply(maps, weight)
    mine = (ours, *torch.autograd.grad(ours, (maps, weight), gradient.float()))
    others = (exact, *torch.autograd.grad(exact, (maps, weight), gradient))
    for one, other in zip(mine, others, strict=True):
        assert (one - other).norm() < 2e-5 * other.norm()


@pytest.mark.parametrize(
    ("avx2", "channels", "side", "tiled"),
    [
        (True, (64, 64), 8, True),
        (True, (48, 96), 16, True),
        (False, (64, 64), 8, False),
        (True, (64, 63), 8, False),  # the transforms cost more than they save
        (True, (64, 64), 6, False),  # no whole tiles
    ],
)
def test_winograds_is_used_in_float32_where_there_is_avx2(
    monkeypatch: pytest.MonkeyPatch, avx2: bool, channels: tuple[int, int], side: int, tiled: bool
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(convolution, "has_avx2", lambda: avx2)
    layer = Conv3x3(*channels).to(memory_format=torch.channels_last)
    maps = torch.randn(4, channels[0], side, side, requires_grad=True)
    out = layer(maps)
    assert ("Winograd" in out.grad_fn.name()) == tiled
    agree(out, F.conv2d(maps, layer.weight, padding=1), (maps, layer.weight), {"atol": 1e-3, "rtol": 1e-4})
    with torch.no_grad():  # a prediction's batch may be large, and so its transforms
        torch.testing.assert_close(layer(maps), F.conv2d(maps, layer.weight, padding=1), rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "Winograd" not in layer(maps).grad_fn.name()


def test_small_maps_in_bfloat16_are_products_where_there_is_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = Conv3x3(16, 16).to(memory_format=torch.channels_last)
    for amx, side, product in ((True, 4, True), (True, 5, False), (False, 4, False)):
        monkeypatch.setattr(convolution, "has_amx", lambda amx=amx: amx)
        maps = torch.randn(8, 16, side, side)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = layer(maps)
        assert out.dtype == torch.bfloat16
        assert ("PatchProduct" in out.grad_fn.name()) == product
        exact = torch.nn.functional.conv2d(maps, layer.weight, padding=1)
        torch.testing.assert_close(out.float(), exact, atol=0.02, rtol=0.02)  # 8 bits, of sums of 144
        (gradient,) = torch.autograd.grad(out.float().square().sum(), layer.weight)
        (wanted,) = torch.autograd.grad(exact.square().sum(), layer.weight)
        assert (gradient - wanted).norm() < 0.02 * wanted.norm()
    monkeypatch.setattr(convolution, "has_amx", lambda: True)
    assert "PatchProduct" not in layer(torch.randn(8, 16, 4, 4)).grad_fn.name()  # in float32


def test_avx2_and_what_is_beyond_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, has in (("DEFAULT", False), ("AVX2", True), ("AVX512", True), ("SVE256", False)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        convolution.has_avx2.cache_clear()
        assert convolution.has_avx2() == has
    convolution.has_avx2.cache_clear()


@pytest.mark.parametrize(
    ("half", "single", "hiccup_at", "faster"),
    [
        (1.0, 2.0, None, True),
        (3.0, 2.0, None, False),
        (100.0, 2.0, None, False),
        (1.0, 2.0, ("bfloat16", 256, 2), True),  # one slow product decides nothing, wherever it falls
        (3.0, 2.0, ("float32", 512, 0), False),
        (1.0, 2.0, ("bfloat16", 512, 0), True),
    ],
)
def test_bf16_is_faster_where_its_products_are(
    monkeypatch: pytest.MonkeyPatch, half: float, single: float, hiccup_at: object, faster: bool
) -> None:
    calls: dict[tuple[str, int], int] = {}

    def seconds(dtype: torch.dtype, side: int) -> float:
        name = str(dtype).removeprefix("torch.")
        count = calls.get((name, side), 0)
        calls[name, side] = count + 1
        slowed = 50.0 if (name, side, count) == hiccup_at else 1.0
        return slowed * (half if name == "bfloat16" else single) * (side / 512) ** 3

    monkeypatch.setattr(convolution, "product_seconds", seconds)
    assert convolution.bf16_is_faster() == faster
    assert calls["bfloat16", 256] <= 4  # what may be a hundred times slower is tried small, and only there
    assert ("bfloat16", 512) in calls or not faster
