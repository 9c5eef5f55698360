"""What a recipe adds where training is long: tricks that pay only if a wide network sees every image many times.

    in_long_runs:
      width_times_epochs: 6000
      gain: 0.013
      tricks: {trivial_augment: {}}

The planner decides, when it has measured how many epochs there will be.
"""

from dataclasses import replace
from typing import Any

from speedtrain.chosen_tricks import with_added
from speedtrain.config import Config


def open_names(config: Config) -> list[str]:
    """Names of the tricks that the planner adds to this configuration if training is long.

    None where the planner does not choose the width, since nothing is measured then, and for other networks than a
    ResNet-9 from random weights.
    """
    planned = config.model == "resnet9" and config.from_random and config.width == "auto"
    if config.in_long_runs is None or not planned:
        return []
    return [name for name in config.in_long_runs["tricks"] if name not in config.tricks]


def added_in_long_runs(config: Config) -> dict[str, dict[str, Any]]:
    """The tricks of `open_names`, with all their hyperparameters."""
    return {name: (config.in_long_runs or {})["tricks"][name] for name in open_names(config)}


def is_long(config: Config, width: int, epochs: float) -> bool:
    """Whether the planner adds tricks to a network of this width if it predicts so many epochs."""
    return bool(open_names(config)) and width * epochs >= (config.in_long_runs or {})["width_times_epochs"]


def gain_of_long_runs(config: Config, width: int, epochs: float) -> float:
    """The share of the answers that these tricks make right: 0 for a network that gets none."""
    return (config.in_long_runs or {})["gain"] if is_long(config, width, epochs) else 0.0


def as_long_run(config: Config) -> Config:
    """The configuration with these tricks."""
    return replace(config, tricks=with_added(config.tricks, added_in_long_runs(config)))
