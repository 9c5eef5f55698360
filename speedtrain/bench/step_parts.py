"""Where the time of a training step goes, by torch's profiler."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

IMAGES = "images: normalise, crop, flip and the like"
OPTIMIZER = "optimizer"
OTHER = "other"
PARTS = {
    "loss": ("softmax", "nll", "cross_entropy"),
    "convolutions and products": ("conv", "mm", "matmul", "linear", "unfold", "im2col", "patchproduct", "winograd"),
    "pooling": ("pool", "max"),
    "batch norm": ("batch_norm", "batchnorm"),
    "activation": ("elu", "threshold"),
    "copies and casts": ("copy", "clone", "fill", "zero", "cat", "empty", "_to", "contiguous"),
    "additions": ("add", "sum"),
}
"""Part → pieces of the names of its operations, in small letters. The first part with a piece in the name counts."""


def step_parts(step: Callable[[], object], training: Any) -> list[dict[str, Any]]:
    """How the time of training steps divides among kinds of operations, forwards and backwards together.

    On a CPU it is the time of the thread that leads; on a GPU that of the kernels.

    Args:
        step: takes some steps of `training`.
        training: a `Training`. While this measures, its `make_batch` is recorded.

    Returns:
        A row per part, the largest first: `part` and its `share` of the time, 0 to 1.
    """
    plain = training.make_batch

    def recorded(indices: Tensor) -> Any:
        with record_function(IMAGES):
            return plain(indices)

    on_gpu = next(training.parameters()).is_cuda
    training.make_batch = recorded
    try:
        step()  # the first call makes kernels
        # the host's operations too, on a GPU: they tell which part a kernel belongs to
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        with profile(activities=activities) as profiler:
            step()
    finally:
        training.make_batch = plain
    seconds: Counter[str] = Counter()
    for event in profiler.events() or ():
        if event.device_type == DeviceType.CPU:
            seconds[_part(event)] += event.self_device_time_total if on_gpu else event.self_cpu_time_total
    whole = sum(seconds.values()) or 1.0  # a GPU that may not be profiled
    return [{"part": part, "share": round(taken / whole, 4)} for part, taken in seconds.most_common()]


def _part(event: Any) -> str:
    """The part that an operation of the profile belongs to."""
    within: Any = event
    while within is not None:
        if within.name == IMAGES:
            return IMAGES
        if within.name.startswith("Optimizer.step"):
            return OPTIMIZER
        within = within.cpu_parent
    return next((part for part, pieces in PARTS.items() if any(piece in event.name.lower() for piece in pieces)), OTHER)
