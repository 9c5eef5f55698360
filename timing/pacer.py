"""Progress through a budget: the position of training in its schedule, by the clock or from a record."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median

from timing.clock import Budget

HICCUP = 3.0
"""A step slower than this many medians of the last steps is a hiccup of the machine. (A step with SAM takes two.)"""


class Pacer:
    """Turns time into progress, from 0 at the first step to 1 at the end planned for training.

    Args:
        budget: the budget in which training must end.
        reserve: seconds to keep after the last step, for saving and exit. Default: 0.25.
        done: the share of the training that is done by another measure than time, for example epochs. If it is ahead
            of the clock, progress follows it, and training ends when it is 1. Default: none.
    """

    def __init__(self, budget: Budget, reserve: float = 0.25, done: Callable[[], float] = lambda: 0.0) -> None:
        self.budget = budget
        self.reserve = reserve
        self._done = done
        self._started: float | None = None
        self._last = 0.0
        self._steps: deque[float] = deque(maxlen=8)

    def next(self) -> float | None:
        """Progress of the next step, or None if it would not end in time, or training is done.

        While any time is left, the first step is always granted, because its length is not known yet.
        """
        now = time.monotonic()
        end = self.budget.started + self.budget.seconds - self.reserve
        if self._started is None:
            self._started = self._last = now
        else:
            self._steps.append(now - self._last)
            self._last = now
        if now + self.slowest_step() > end:
            return None
        progress = max((now - self._started) / (end - self._started), self._done())
        return progress if progress < 1 else None

    def slowest_step(self) -> float:
        """Seconds of the slowest of the last few steps, without hiccups.

        The slowest, because steps vary and a step that ends too late means a kill. Without hiccups, because one of
        them would end a run before its learning rate has annealed, with time left for many steps.
        """
        if not self._steps:
            return 0.0
        usual = HICCUP * median(self._steps)
        return max(seconds for seconds in self._steps if seconds <= usual)


class RecordedPacer:
    """Repeats the progress that a `Pacer` gave, independently of the clock.

    Args:
        progress: progress of each step, in order.
    """

    def __init__(self, progress: Sequence[float]) -> None:
        self._progress = iter(progress)

    def next(self) -> float | None:
        """Progress of the next step, or None after the last recorded one."""
        return next(self._progress, None)
