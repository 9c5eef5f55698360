"""How a device computes: in which precision, and whether it repeats its results bit for bit."""

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Automatic mixed precision; none in fp32."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32")


def configure_device(device: torch.device) -> None:
    """Makes a GPU repeat its results bit for bit, and compute in TF32 what is left in fp32."""
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)
        torch.use_deterministic_algorithms(True, warn_only=True)  # replay wants the same bits again
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time
        torch.set_float32_matmul_precision("high")  # TF32, as convolutions use by default
