"""Whether several networks at once are better than one, where a recipe leaves it to `auto`."""

import copy
from typing import Any

from speedtrain.config import Config
from speedtrain.network.convolution import bf16_is_faster

AUTO: list[dict[str, Any]] = [
    {"with": "momentum_sam"},
    {
        "with": ["mirror_equivariance", "momentum_sam"],
        "without": "patch_whitening",
        "test_time_augmentation.mode": "shift",
    },
]
"""The members where they are left to `auto`: two networks that err differently. TODO evidence"""
CORE_SECONDS = {"bf16": 0.1, "fp32": 0.3}
"""TODO: of budget, for each image of 32 pixels, from which two networks are better than one."""


def settle_members(config: Config, num_images: int, side: int) -> str | None:
    """Decides in `config` whether there are members, where that is left to `auto`: `AUTO`, or one network.

    Args:
        config: of a run, its device and threads known.
        num_images: training images.
        side: of them, in pixels.

    Returns:
        One line for the user where there are members.
    """
    if config.members != "auto":
        return None
    config.members = []
    if config.model != "resnet9" or not config.from_random or config.snapshots or "flip" not in config.tricks:
        return None  # networks of timm are not symmetric, and neither are images that nobody may mirror
    if config.device != "cpu" or (config.threads or 1) < len(AUTO):
        return None
    core_seconds = config.budget * (config.threads or 1) / num_images / (side / 32) ** 2
    if core_seconds < CORE_SECONDS["bf16" if bf16_is_faster() else "fp32"]:
        return None
    config.members = copy.deepcopy(AUTO)
    return f"{len(AUTO)} networks of different kinds at once: the budget is long enough (--set members=[] for one)"
