"""The schedule of the learning rate: knots [progress, factor], linear in between. Recipes set the knots."""

import math
from collections.abc import Sequence
from itertools import pairwise

from speedtrain.errors import UserError

Knots = Sequence[tuple[float, float]]
"""(progress through the budget, factor on the learning rate), in order of progress."""


def lr_factor(knots: Knots, progress: float) -> float:
    """The factor on the learning rate at a progress in [0, 1]."""
    for (left, low), (right, high) in pairwise(knots):
        if progress <= right:
            return low + (high - low) * (progress - left) / (right - left)
    return knots[-1][1]


def check_schedule(knots: Knots) -> None:
    """Makes sure that knots are a schedule.

    Raises:
        UserError: they are not.
    """
    times = [progress for progress, _ in knots]
    if len(knots) < 2 or times[0] != 0 or times[-1] != 1 or not all(a < b for a, b in pairwise(times)):
        raise UserError(f"schedule must be [progress, factor] knots with progress rising from 0 to 1, got {knots}")
    if any(not (factor >= 0 and math.isfinite(factor)) for _, factor in knots):
        raise UserError(f"schedule's factors must be 0 or more, got {knots}")
