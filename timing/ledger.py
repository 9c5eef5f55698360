"""A record of how long each phase of a run took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from timing.clock import process_start


class Ledger:
    """Assigns every second since `started` to exactly one phase, so that the phases add up to the whole.

    The time from `started` to the first phase is the phase `start`. Time outside all phases is the phase `other`.

    Args:
        started: start of the record, in seconds of `time.monotonic()`. Default: the start of this process.
    """

    def __init__(self, started: float | None = None) -> None:
        self._finished: dict[str, float] = {}
        self.started = process_start() if started is None else started
        self._since = self.started
        self._current = "start"

    def switch(self, name: str = "other") -> None:
        """Ends the current phase and starts the phase `name`."""
        self._finished = self.phases()
        self._since, self._current = time.monotonic(), name

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Assigns the time inside the context to `name`. A phase around it is paused meanwhile."""
        outer = "other" if self._current == "start" else self._current
        self.switch(name)
        try:
            yield
        finally:
            self.switch(outer)

    def phases(self) -> dict[str, float]:
        """Seconds per phase up to now, in the order in which the phases started."""
        seconds = dict(self._finished)
        seconds[self._current] = seconds.get(self._current, 0.0) + time.monotonic() - self._since
        return seconds
