"""As many threads as the machine has cores to spare."""

import os
import sys
import time
from pathlib import Path

CHECK_EVERY = 1.0  # seconds
# Shares of one core's time. Measured: two threads are as fast as one when another program uses half a core.
MAX_WAITING = 0.4  # of all threads together, for a core
MIN_IDLE = 0.5  # before a thread more
INITIAL_LOAD = 0.5  # of other programs, that leaves a core to us at the start
MIN_SECONDS = 0.25  # to count over: the kernel counts in hundredths
LINUX = sys.platform == "linux"


class ThreadController:
    """Uses one thread fewer while another program wants its core, and one more when a core falls idle.

    Every operation is divided evenly over the threads and waits for the slowest of them, hundreds of times per step.
    Where another program takes one core of two, two threads are therefore far slower than one. Linux knows how long
    threads wait for a core and how long cores are idle. On other systems the number of threads never changes.

    Args:
        maximum: threads when no other program is running.
    """

    def __init__(self, maximum: int) -> None:
        self.threads = self._maximum = maximum
        self._measure()

    def initial(self) -> int:
        """The number of threads to begin with: as many as cores were idle, or ours, since this object was made."""
        seconds = time.monotonic() - self._measured
        free = (_idle_seconds() - self._idle + time.process_time() - self._worked) / seconds
        if LINUX and seconds >= MIN_SECONDS:
            self.threads = max(1, min(self._maximum, int(free + INITIAL_LOAD)))
        self._measure()
        return self.threads

    def update(self) -> int:
        """The number of threads for the next step. Cheap: it measures about once per second."""
        seconds = time.monotonic() - self._measured
        if seconds < CHECK_EVERY or self._maximum == 1:
            return self.threads
        waiting = _waiting_seconds()
        delay = sum(after - self._waiting.get(thread, after) for thread, after in waiting.items())
        if delay > MAX_WAITING * seconds and self.threads > 1:
            self.threads -= 1
        elif _idle_seconds() - self._idle > MIN_IDLE * seconds and self.threads < self._maximum:
            self.threads += 1
        self._measure()
        return self.threads

    def _measure(self) -> None:
        self._waiting, self._idle, self._worked = _waiting_seconds(), _idle_seconds(), time.process_time()
        self._measured = time.monotonic()


def _waiting_seconds() -> dict[str, float]:
    """Seconds that each thread of this process has been ready to run and without a core."""
    delays = {}
    for task in Path("/proc/self/task").glob("*"):
        try:
            delays[task.name] = int((task / "schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError):
            continue  # the thread has ended
    return delays


def _idle_seconds() -> float:
    """Seconds that the cores this process is bound to have been idle, added up."""
    try:
        mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    except (OSError, AttributeError):
        return 0.0
    # idle, and waiting for the disk: after an install the imports do that
    return sum(int(f[4]) + int(f[5]) for f in lines if f and f[0] in mine) / os.sysconf("SC_CLK_TCK")
