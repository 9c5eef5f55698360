"""How a device computes: in which precision, and whether it repeats its results bit for bit."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Automatic mixed precision; none in fp32."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32")


_TF32 = threading.Lock()


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """All of fp32's digits: on a GPU without TF32, which is a setting of the whole process."""
    if device.type != "cuda":
        yield
        return
    with _TF32:
        before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = before[0]
            torch.set_float32_matmul_precision(before[1])


def configure_device(device: torch.device) -> None:
    """Makes a GPU repeat its results bit for bit, and compute in TF32 what is left in fp32."""
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)
        torch.use_deterministic_algorithms(True, warn_only=True)  # replay wants the same bits again
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time
        torch.set_float32_matmul_precision("high")  # TF32, as convolutions use by default
