"""As many threads as the machine has cores to spare."""

import os
import sys
import time
from pathlib import Path

LOOK_EVERY = 1.0
# Shares of one core's time. Measured: two threads are as fast as one when another program uses half a core.
WAITING = 0.4  # that all threads together may wait for a core
IDLE = 0.5  # that must be idle to be taken
INITIAL_LOAD = 0.5  # that others may use at the start
TICKS = 0.25  # seconds at least to count over: the kernel counts in hundredths
LINUX = sys.platform == "linux"


class ThreadController:
    """Takes a thread away while another program wants its core, and brings it back when a core falls idle.

    Every operation is shared out evenly and waits for its slowest thread, hundreds of times a step. Where another
    program takes one core of two, two threads are therefore far slower than one. Whether threads have to wait
    for a core, and whether cores are idle, Linux tells; elsewhere the number of threads never changes.

    Args:
        most: threads when nobody else is there.
    """

    def __init__(self, most: int) -> None:
        self.threads = self._most = most
        self._remember()

    def initial(self) -> int:
        """The number of threads to begin with: as many as cores were idle, or ours, since this object was made."""
        seconds = time.monotonic() - self._looked
        free = (_idle() - self._idle + time.process_time() - self._worked) / seconds
        if LINUX and seconds >= TICKS:
            self.threads = max(1, min(self._most, int(free + INITIAL_LOAD)))
        self._remember()
        return self.threads

    def update(self) -> int:
        """The number of threads for the next step. Cheap: looks about once a second."""
        seconds = time.monotonic() - self._looked
        if seconds < LOOK_EVERY or self._most == 1:
            return self.threads
        waited = _waited()
        delay = sum(after - self._waited.get(thread, after) for thread, after in waited.items())
        if delay > WAITING * seconds and self.threads > 1:
            self.threads -= 1
        elif _idle() - self._idle > IDLE * seconds and self.threads < self._most:
            self.threads += 1
        self._remember()
        return self.threads

    def _remember(self) -> None:
        self._waited, self._idle, self._worked = _waited(), _idle(), time.process_time()
        self._looked = time.monotonic()


def _waited() -> dict[str, float]:
    """Seconds that each thread of this process has been ready to run and without a core."""
    delays = {}
    for task in Path("/proc/self/task").glob("*"):
        try:
            delays[task.name] = int((task / "schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError):
            continue  # the thread has ended
    return delays


def _idle() -> float:
    """Seconds that the cores this process may use have been idle, added up."""
    try:
        mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    except (OSError, AttributeError):
        return 0.0
    # idle, and waiting for the disk: after an install the imports do that
    return sum(int(f[4]) + int(f[5]) for f in lines if f and f[0] in mine) / os.sysconf("SC_CLK_TCK")
