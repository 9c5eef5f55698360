"""Where did my ten minutes go? A budget kept as a ledger of phases."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from timing.clock import process_start


class Ledger:
    """Books every second since `started` to exactly one phase, so that the phases add up to the whole.

    From `started` to the first phase it is the phase `start`; what is in no phase is booked to `other`.

    Args:
        started: when the books open, by `time.monotonic()`; default: when this process was started.
    """

    def __init__(self, started: float | None = None) -> None:
        self._booked: dict[str, float] = {}
        self.started = process_start() if started is None else started
        self._since = self.started
        self._current = "start"

    def switch(self, name: str = "other") -> None:
        """Books the time up to now to the phase at hand and goes on with `name`."""
        self._booked = self.phases()
        self._since, self._current = time.monotonic(), name

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Books the time spent inside to `name`; a phase around it is paused for so long."""
        outer = "other" if self._current == "start" else self._current
        self.switch(name)
        try:
            yield
        finally:
            self.switch(outer)

    def phases(self) -> dict[str, float]:
        """Seconds a phase up to now, in the order in which they began."""
        booked = dict(self._booked)
        booked[self._current] = booked.get(self._current, 0.0) + time.monotonic() - self._since
        return booked
