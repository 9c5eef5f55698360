"""The budget: a number of seconds of wall-clock time, counted from the start of a process."""

import os
import time
from dataclasses import dataclass

_IMPORTED = time.monotonic()


def process_start() -> float:
    """The time at which this process was started, in seconds of `time.monotonic()`.

    All processes of a machine share this clock. On Linux the result is exact to 10 ms. On other systems it is the
    time at which this module was imported, later by the start of the interpreter.
    """
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name before it may contain spaces
        ticks = int(fields[19])  # field 22, starttime, in clock ticks since boot
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return _IMPORTED
    return time.monotonic() - age


@dataclass(frozen=True)
class Budget:
    """A number of seconds and the time at which they started.

    Args:
        seconds: length of the budget; infinite for no limit.
        started: start of the budget, in seconds of `time.monotonic()`.

    Raises:
        ValueError: seconds is not a positive number.
    """

    seconds: float
    started: float

    def __post_init__(self) -> None:
        if not self.seconds > 0:  # nan included
            raise ValueError(f"a budget must be a positive number of seconds, got {self.seconds}")

    @classmethod
    def since_process_start(cls, seconds: float) -> "Budget":
        """A budget that started with this process: interpreter start and imports count."""
        return cls(seconds, process_start())

    def elapsed(self) -> float:
        """Seconds since the budget started."""
        return time.monotonic() - self.started

    def remaining(self) -> float:
        """Seconds to the deadline, negative after it."""
        return self.seconds - self.elapsed()
