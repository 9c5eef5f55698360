"""One plan for all variants that may share it: the width, batch size and precision that a recipe leaves to the planner.

A trick that is compared at another width would be a comparison of widths.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from speedtrain.ablation.design import Design
from speedtrain.ablation.engine import Engine
from speedtrain.config import Config
from speedtrain.data import Images
from speedtrain.files import write_atomic
from speedtrain.member_configs import PLANNED as PLANNED_OF_MEMBER
from speedtrain.training.scaling_law import FITTED_SETTINGS

PLANNED = ("width", "batch_size", "precision")

SHARED_ACROSS = ("seed", "labels", *FITTED_SETTINGS)
"""Keys in which variants with one plan may differ: their labels, their tricks, and how the optimizer steps."""

Plans = dict[str, dict[str, Any]]
"""The name of the first variant with a plan → planned keys and their values."""


def plan_once_for_all(
    design: Design, train: Images, path: Path, engine: Engine, subset: int | None = None
) -> tuple[Design, Plans]:
    """Plans once for variants that differ only in `SHARED_ACROSS`.

    Args:
        design: the variants.
        train: the training images.
        path: the file that keeps the plans, so that a resumed sweep uses the same ones. Read where it exists.
        engine: measures the plans.
        subset: training images per class. Default: all of them.

    Returns:
        The design with the planned values filled in, and the plans.

    Raises:
        UserError: a plan fails.
    """
    if subset is not None:  # the planner depends only on their number
        number = subset * len(train.classes)
        train = train.subset(np.arange(number))
    plans: Plans = json.loads(path.read_text()) if path.exists() else {}
    first_with: dict[str, str] = {}
    variants: dict[str, Config] = {}
    for name, given in design.variants.items():
        config = replace(given, in_long_runs=None)  # tricks are compared: the planner adds none
        open_keys = [key for key in PLANNED if getattr(config, key) == "auto"]
        first = first_with.setdefault(_shared_part(config), name)
        if open_keys and first not in plans:
            plan: Mapping[str, Any] = engine.plan(replace(config), train)
            plans[first] = {key: plan[key] for key in open_keys if plan[key] is not None}
            if config.members:
                pairs = zip(config.members, plan["members"], strict=True)
                planned = [{**member, PLANNED_OF_MEMBER: {key: its[key] for key in open_keys}} for member, its in pairs]
                plans[first] = {"members": planned}
        variants[name] = replace(config, **plans.get(first, {}))
    if not path.exists():
        write_atomic(path, json.dumps(plans, indent=2).encode())
    return replace(design, variants=variants), plans


def _shared_part(config: Config) -> str:
    """Equal for configurations that share a plan."""
    return json.dumps({key: value for key, value in asdict(config).items() if key not in SHARED_ACROSS})
