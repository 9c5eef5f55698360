"""Which device trains and predicts: found by using it, since a GPU that torch sees may still be unusable."""

import os

import torch

from speedtrain.errors import UserError

FREE = 2**30
"""Bytes of memory that a GPU must have free."""
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
