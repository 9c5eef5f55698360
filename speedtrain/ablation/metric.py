"""The scores of a trial that variants can be compared by. Light to import."""

from collections.abc import Mapping
from typing import Any

from speedtrain.errors import UserError

METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}
"""Key of a trial's row → the metric in words."""


def check_metric(metric: str) -> None:
    """Raises UserError where there is no such metric."""
    if not isinstance(metric, str) or metric not in METRICS:
        raise UserError(f"--metric {metric}: must be {' or '.join(METRICS)}")


def score_in_words(row: Mapping[str, Any], metric: str) -> str:
    """A trial's score under its name, for the terminal."""
    score = row.get(metric)  # a node of a Ray cluster may have an earlier version, which does not tell it
    return f"no {METRICS[metric]}" if score is None else f"{METRICS[metric]} {score:.2%}"
