"""Which device trains and predicts: found by using it, since a GPU that torch sees may still be unusable."""

import math
import os

import torch

from speedtrain.errors import UserError

FREE = 2**30
"""Bytes of memory that a GPU must have free, beside the training images."""
DRIVER = "/proc/driver/nvidia/version"
"""Is there where the driver of an NVIDIA GPU is loaded."""


def find_device(name: str = "auto") -> tuple[str, str | None]:
    """The device to use, and why it is not the GPU that is there.

    Args:
        name: auto, cpu, cuda or cuda:N. Default: auto, a GPU that can be used, or else the CPU.

    Returns:
        cpu, cuda or cuda:N, and one line on an unusable GPU, else None.

    Raises:
        UserError: the GPU that was named cannot be used.
    """
    if name == "cpu":
        return name, None
    gpu = "cuda" if name == "auto" else name
    problem = _problem(gpu)
    if problem is None:
        return gpu, None
    if name != "auto":
        raise UserError(f"--device {name}: {problem}; use --device cpu, or auto")
    return "cpu", f"warning: on the CPU, since the GPU cannot be used: {problem}" if _is_there() else None


def check_room_on(device: str, count: int, side: int, free: int | None = None) -> None:
    """Refuses images that do not fit on a GPU, where all of them lie while training, and names the side that would.

    Args:
        device: cpu, which takes any, cuda or cuda:N.
        count, side: how many images, of how many pixels a side.
        free: bytes of the GPU's memory. Default: as it is.

    Raises:
        UserError: they do not fit beside what a training step needs.
    """
    if device == "cpu":
        return
    room = (torch.cuda.mem_get_info(device)[0] if free is None else free) - FREE
    needed = count * side**2 * 3
    if needed > room:
        fits = math.isqrt(max(0, room) // (count * 3))
        there = f"they need {needed / 2**20:,.0f} MiB, and {max(0, room) / 2**20:,.0f} are free beside a training step"
        advice = f"give {f'--side {fits}, ' if fits else ''}fewer images, or --device cpu"
        raise UserError(f"{device}: no room for {count} images of {side}×{side} pixels: {there}: {advice}")


def _is_there() -> bool:
    """Whether this machine has an NVIDIA GPU, whatever torch can do with it."""
    return torch.cuda.is_available() or os.path.exists(DRIVER)


def _problem(gpu: str) -> str | None:
    """Why a GPU cannot be used, in one line; None where it can."""
    if not torch.cuda.is_available():
        if os.path.exists(DRIVER) and torch.version.cuda is None:
            return "this torch is built without CUDA"
        return "torch sees no CUDA GPU here"
    try:
        free, total = torch.cuda.mem_get_info(gpu)
        if free < FREE:
            return f"{free / 2**30:.1f} of its {total / 2**30:.1f} GiB are free, others have taken the rest"
        ones = torch.ones(64, 64, device=gpu)  # fails where torch has no kernels for this GPU
        torch.nn.functional.conv2d(ones[None, None], ones[None, None, :3, :3]).sum().item()
    except Exception as error:  # CUDA, its libraries and torch each raise errors of their own kind
        return " ".join(str(error).split())[:200] or type(error).__name__
    return None
