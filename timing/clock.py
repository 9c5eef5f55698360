"""The budget: so many seconds of wall-clock time, counted from a process's start."""

import os
import time
from dataclasses import dataclass

_IMPORTED = time.monotonic()


def process_start() -> float:
    """When this process was started, by `time.monotonic()`, which all processes of a machine share.

    Linux tells, to 10 ms. Elsewhere it is the moment this module was imported, which is late by the
    start of the interpreter.
    """
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name before it may hold spaces
        ticks = int(fields[19])  # field 22, starttime, in clock ticks since boot
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return _IMPORTED
    return time.monotonic() - age


@dataclass(frozen=True)
class Budget:
    """A number of seconds and the moment they began.

    Args:
        seconds: length of the budget; infinite for no limit.
        started: when it began, by `time.monotonic()`.

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
        """A budget that began when this process was started: interpreter start and imports count."""
        return cls(seconds, process_start())

    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.started

    def remaining(self) -> float:
        """Seconds to the deadline, negative past it."""
        return self.seconds - self.elapsed()
