"""Progress through a budget: where in its schedule training stands, by the clock or by a record of it."""

import time
from collections import deque
from collections.abc import Sequence
from statistics import median

from timing.clock import Budget

HICCUP = 3.0
"""Times the median of the last few steps: what is slower is the machine's doing, not the step's. SAM takes twice."""


class Pacer:
    """Turns time into progress, from 0 at the first step to 1 at the end planned for training.

    Args:
        budget: what binds.
        reserve: seconds to keep after the last step, for saving and leaving.
    """

    def __init__(self, budget: Budget, reserve: float = 0.25) -> None:
        self.budget = budget
        self.reserve = reserve
        self._begun: float | None = None
        self._last = 0.0
        self._steps: deque[float] = deque(maxlen=8)

    def next(self) -> float | None:
        """Progress of the step about to begin, or None if no further step would end in time.

        The first step is always granted while there is time at all: how long it takes is not known yet.
        """
        now = time.monotonic()
        end = self.budget.started + self.budget.seconds - self.reserve
        if self._begun is None:
            self._begun = self._last = now
        else:
            self._steps.append(now - self._last)
            self._last = now
        if now + self._slowest() > end:
            return None
        return (now - self._begun) / (end - self._begun)

    def _slowest(self) -> float:
        """Seconds of the slowest of the last few steps: they vary, and one too many is a kill. A lone hiccup does
        not count, though: it would end a run un-annealed, with time left for many steps."""
        if not self._steps:
            return 0.0
        usual = HICCUP * median(self._steps)
        return max(seconds for seconds in self._steps if seconds <= usual)


class RecordedPacer:
    """Plays back the progress that a `Pacer` gave, whatever time it takes now.

    Args:
        progress: of each step, in order.
    """

    def __init__(self, progress: Sequence[float]) -> None:
        self._progress = iter(progress)

    def next(self) -> float | None:
        """Progress of the step about to begin, or None after the last recorded one."""
        return next(self._progress, None)
