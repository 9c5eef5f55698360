"""The device that is used, and why not another."""

from pathlib import Path

import pytest
import torch

from speedtrain import device
from speedtrain.device import FREE, check_room_on, find_device
from speedtrain.errors import UserError

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")


@without_gpu
@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_without_a_gpu_it_is_the_cpu_and_nothing_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "DRIVER", "/nowhere")
    assert find_device(name) == ("cpu", None)


@without_gpu
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_asked_for_and_absent(name: str) -> None:
    with pytest.raises(UserError, match=f"--device {name}: .*; use --device cpu, or auto"):
        find_device(name)


@without_gpu
def test_a_gpu_that_fails_when_it_is_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # the rest is torch's own failure
    found, problem = find_device()
    assert found == "cpu"
    assert problem is not None
    assert problem.startswith("warning: on the CPU, since the GPU cannot be used: ")
    assert len(problem.splitlines()) == 1


def test_a_gpu_taken_by_others_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (2**28, 16 * 2**30))
    assert "0.2 of its 16.0 GiB are free" in str(find_device()[1])


@without_gpu
def test_a_torch_without_cuda_beside_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device, "DRIVER", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "this torch is built without CUDA" in str(find_device()[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_that_can_be_used() -> None:
    assert find_device() == ("cuda", None)
    assert find_device("cuda:0") == ("cuda:0", None)
    with pytest.raises(UserError, match="--device cuda:99"):
        find_device("cuda:99")


def test_images_that_do_not_fit_on_a_gpu_are_refused_with_a_side_that_does() -> None:
    count, side = 1000, 64
    size = count * side**2 * 3
    check_room_on("cuda", count, side, free=size + FREE)
    with pytest.raises(
        UserError, match=r"cuda:1: no room for 1000 images of 64×64 pixels.*--side (\d+), fewer"
    ) as caught:
        check_room_on("cuda:1", count, side, free=size + FREE - 1)
    fits = int(str(caught.value).partition("--side ")[2].partition(",")[0])
    assert fits == 63
    check_room_on("cuda", count, fits, free=size + FREE - 1)
    with pytest.raises(UserError, match="give fewer images, or --device cpu"):
        check_room_on("cuda", count, side, free=FREE)
    check_room_on("cpu", 10**9, 1000)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_free_memory_of_a_gpu_counts() -> None:
    free = torch.cuda.mem_get_info("cuda")[0]
    with pytest.raises(UserError, match="cuda: no room"):
        check_room_on("cuda", free // (32 * 32 * 3) + 1, 32)
