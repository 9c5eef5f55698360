"""Copies of a run's weights while it trains, taken from outside: how good was it, and when?

The judge opens the file at set instants, and copies it if it has changed. The program is neither asked nor stopped. The
instants depend on the budget and the score alone, so they are the same for every submission and training set.
"""

import math
import os
import stat
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from speedtrain.judge.process_use import descendants

RETRY_SECONDS = 0.05
"""Until the next look at a file that is being written."""
CHUNK = 4 << 20


@dataclass(frozen=True)
class Copy:
    """One copy.

    Attributes:
        seconds: from the start of the process until the copy was begun.
        path: the file.
    """

    seconds: float
    path: Path


def instants(budget: float, t0: float, number: int) -> list[float]:
    """Seconds at which copies are taken: evenly spaced on the scale log(1 + t/t0), the end of the budget left out.

    The weights at the end of the run are taken anyway.
    """
    scale = math.log1p(budget / t0)
    return [t0 * math.expm1(scale * k / number) for k in range(1, number)]


class Copier:
    """Copies a file at set instants, as long as its `with` block lasts.

    Args:
        job: the guarded process: `pid`, and `started` on the monotonic clock.
        file: the file, in a folder that the process writes to.
        folder: where the copies go; made here.
        at: the instants, in seconds since the start.
        end: the budget; nothing is looked at afterwards.
        most: bytes of all copies together.

    Raises:
        Exception: at the end of the block, whatever kept the copies from being taken.

    Attributes:
        copies: what was copied, in order.
        left_out: how many instants got no copy because the file was never whole until the next one, is no plain file,
            or the copies became too large.
    """

    def __init__(self, job: Any, file: Path, folder: Path, at: Sequence[float], end: float, most: int) -> None:
        self._job, self._file, self._folder, self._at, self._left = job, file, folder, list(at), most
        self._end = end
        self._error: Exception | None = None
        self._known: tuple[int, ...] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.copies: list[Copy] = []
        self.left_out = 0

    def _work(self) -> None:
        try:
            self._copy_all()
        except Exception as error:  # of the judge's own, such as a full disk: told by the thread that waits
            self._error = error

    def _copy_all(self) -> None:
        for number, instant in enumerate(self._at):
            if self._ended.wait(max(0.0, self._job.started + instant - time.monotonic())):
                return
            until = [*self._at, self._end][number + 1]
            while (outcome := self._try()) is None:  # it is being written
                if self._ended.wait(RETRY_SECONDS):
                    return
                if time.monotonic() - self._job.started >= until:
                    break
            self.left_out += not outcome

    def _try(self) -> bool | None:
        """One look: True if the newest weights are copied or there are none yet, False if they cannot be copied, None
        if they are being written."""
        try:
            # follow no link, and wait for no pipe
            descriptor = os.open(self._file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            return self._copy(descriptor)
        finally:
            os.close(descriptor)

    def _copy(self, descriptor: int) -> bool | None:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > self._left:
            return False
        if _identity(found) == self._known:
            return True
        if not found.st_size or self._is_being_written(found):
            return None
        seconds = time.monotonic() - self._job.started
        path = self._folder / f"{len(self.copies) + 1:04}"
        size = _send(descriptor, path, found.st_size)
        if size != found.st_size or _identity(os.fstat(descriptor)) != _identity(found):
            path.unlink()
            return None
        path.chmod(0o644)
        self._known = _identity(found)
        self._left -= size
        self.copies.append(Copy(round(seconds, 3), path))
        return True

    def _is_being_written(self, found: os.stat_result) -> bool:
        """Whether a process of the run has the file open for writing."""
        for pid in descendants(self._job.pid):
            with suppress(OSError, ValueError, IndexError):
                for descriptor in os.listdir(f"/proc/{pid}/fd"):
                    with suppress(OSError, ValueError, IndexError):
                        other = os.stat(f"/proc/{pid}/fd/{descriptor}")
                        if (other.st_dev, other.st_ino) == (found.st_dev, found.st_ino):
                            text = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text()
                            flags = int(text.partition("flags:")[2].split()[0], 8)
                            if flags & os.O_ACCMODE != os.O_RDONLY:
                                return True
        return False

    def __enter__(self) -> "Copier":
        self._folder.mkdir(mode=0o755, parents=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error


def _identity(found: os.stat_result) -> tuple[int, ...]:
    """What differs when a file has other content."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _send(source: int, path: Path, size: int) -> int:
    """Copies at most `size` bytes inside the kernel; returns how many there were."""
    done = 0
    with open(path, "wb") as target:
        while done < size:
            count = os.sendfile(target.fileno(), source, done, min(CHUNK, size - done))
            if not count:
                break
            done += count
    return done
