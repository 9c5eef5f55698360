"""As many threads as the machine has cores to spare."""

import os
import sys
import time
from pathlib import Path

LOOK_EVERY = 1.0
WAITING = 0.15  # share of the time a thread may wait for a core
IDLE = 0.85  # share of the time a core must be idle to be taken
MUSTER = 0.25  # of a core may be in use by others at the start
LINUX = sys.platform == "linux"


class Crew:
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

    def muster(self) -> int:
        """The number of threads to begin with: as many as cores were idle, or ours, since this object was made."""
        seconds = time.monotonic() - self._looked
        free = (_idle() - self._idle + time.process_time() - self._worked) / seconds
        if LINUX:
            self.threads = max(1, min(self._most, int(free + MUSTER)))
        self._remember()
        return self.threads

    def look(self) -> int:
        """The number of threads for the next step. Cheap: looks about once a second."""
        seconds = time.monotonic() - self._looked
        if seconds < LOOK_EVERY or self._most == 1:
            return self.threads
        waited = _waited()
        longest = max((delay - self._waited.get(thread, delay) for thread, delay in waited.items()), default=0.0)
        if longest > WAITING * seconds and self.threads > 1:
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
    return sum(int(fields[4]) for fields in lines if fields and fields[0] in mine) / os.sysconf("SC_CLK_TCK")
