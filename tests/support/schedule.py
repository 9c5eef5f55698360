"""What a test may ask of a schedule that follows the clock on a machine that may be busy."""

import csv
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path


def progress_of(clock: Path) -> list[float]:
    """Of each step, from a run's `clock.csv`."""
    with open(clock, newline="") as file:
        return [float(row["progress"]) for row in csv.DictReader(file)]


def ends_late(progress: Sequence[float]) -> bool:
    """Whether the last step began in the last tenth, or less than three of the longest steps of late from the end.

    A step is refused if one as long as the slowest of the last few would not fit. Where these are long, so is what is
    left.
    """
    steps = [later - earlier for earlier, later in pairwise(progress)]
    return 1 - progress[-1] <= max(0.1, 3 * max(steps[-8:]))
