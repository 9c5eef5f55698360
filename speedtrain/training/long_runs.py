"""What a recipe adds where training is long: tricks that pay only if a wide network sees every image many times.

    in_long_runs:
      width_times_epochs: 6000
      gain: 0.013
      tricks: {trivial_augment: {}}

The planner decides, when it has measured how many epochs there will be.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from speedtrain.chosen_tricks import checked_trick, with_added
from speedtrain.config import Config
from speedtrain.errors import UserError

KEYS = ("width_times_epochs", "gain", "tricks")


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
    """The tricks of `open_names`, with all their hyperparameters.

    Raises:
        UserError: `in_long_runs` is not what it should be.
    """
    if config.in_long_runs is None:
        return {}
    tricks = _checked(config.in_long_runs)
    return {name: tricks[name] for name in open_names(config)}


def is_long(config: Config, width: int, epochs: float) -> bool:
    """Whether the planner adds tricks to a network of this width if it predicts so many epochs."""
    return bool(open_names(config)) and width * epochs >= (config.in_long_runs or {})["width_times_epochs"]


def gain_of_long_runs(config: Config, width: int, epochs: float) -> float:
    """The share of the answers that these tricks make right: 0 for a network that gets none."""
    return (config.in_long_runs or {})["gain"] if is_long(config, width, epochs) else 0.0


def as_long_run(config: Config) -> Config:
    """The configuration with these tricks."""
    return replace(config, tricks=with_added(config.tricks, added_in_long_runs(config)))


def _checked(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The tricks of `in_long_runs`."""
    tricks = given.get("tricks")
    if set(given) != set(KEYS) or not isinstance(tricks, Mapping):
        raise UserError(
            f"in_long_runs: needs width_times_epochs, a gain and tricks, as in configs/auto.yaml; got {given!r}"
        )
    for key, least, most in (("width_times_epochs", 0.0, None), ("gain", 0.0, 1.0)):
        value = given[key]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not least < value or (most is not None and not value < most):
            words = "above 0" + ("" if most is None else f" and below {most:g}")
            raise UserError(f"in_long_runs: {key} is a number {words}; got {value!r}")
    return {name: checked_trick(name, {} if values is None else values) for name, values in tricks.items()}
