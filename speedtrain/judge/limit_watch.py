"""Watches what all processes of a step use together, and ends the step when that exceeds a limit.

Where no control group can be made, the kernel limits single processes, and only a look at all of them adds up what they
use. Whatever Linux does not report in `/proc` (a process that has just ended, say) is left out.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from speedtrain.judge.control_groups import Group
from speedtrain.judge.printed_log import PrintedLog
from speedtrain.judge.process_use import (
    deleted_files,
    descendants,
    may_run_on_others,
    memory_of,
    network_counters,
    proportional_memory,
    tasks_of,
)
from speedtrain.judge.settings import Limits, in_bytes
from timing import Guarded

LONGEST_WAIT = 0.2
FIRST_WAIT = 0.01
"""Seconds between two looks. The first looks are close together, so that a step that ends soon is seen too."""
LONGEST_PAUSE = 1.0
"""Seconds between two looks where looking itself takes long."""
MOST_DEPTH = 100


class Watch:
    """Looks at a running step several times per second, in a thread of its own.

    Args:
        job: the step's process.
        scratch: the folder that the step may write to.
        printed: takes what the step prints.
        limits: the step is killed when it exceeds one of them.
        group: the control group that the step is in; None if it is in none.
        started: says whether the step's script runs already; before that its processes are not bound to cores yet.

    Attributes:
        limit: the limit that was exceeded, in words; None if none was.
        peak_memory: bytes, the most that a look found.
        network_attempts: packets that the step tried to send out of its sandbox.
    """

    def __init__(
        self,
        job: Guarded,
        scratch: Path,
        printed: PrintedLog,
        limits: Limits,
        group: Group | None,
        started: Callable[[], bool],
    ) -> None:
        self._started = started
        self.limit: str | None = None
        self.peak_memory = 0
        self.network_attempts = 0
        self._job, self._scratch, self._printed, self._limits = job, scratch, printed, limits
        self._group = group
        self._network: list[TextIO] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._count_network_attempts()
        for file in self._network:
            file.close()

    def _watch(self) -> None:
        wait = FIRST_WAIT
        while not self._over.wait(wait):
            started = time.monotonic()
            self._check_processes()
            self.check_files()
            if self.limit is not None:
                self._job.interrupt()  # without grace: a kill
                return
            # looking should take at most a twentieth of the time, but a crowd of processes must not delay the next look
            pause = min(LONGEST_PAUSE, 20 * (time.monotonic() - started))
            wait = max(min(LONGEST_WAIT, 2 * wait), pause)

    def _check_processes(self) -> None:
        pids = descendants(self._job.pid)
        memory = threads = 0
        started = self._started()
        for pid in pids:
            tasks = tasks_of(pid)
            threads += len(tasks)
            memory += memory_of(tasks)
            if started and may_run_on_others(tasks, self._limits.cpus):
                self.limit = "ran on cores that it was not given"
        if memory > self._limits.memory:
            memory = min(memory, proportional_memory(pids))  # shared pages were counted once per process
        self.peak_memory = max(self.peak_memory, memory)
        if memory > self._limits.memory:
            self.limit = f"used more than the limit of {in_bytes(self._limits.memory)} of memory"
        if threads > self._limits.processes:
            self.limit = f"ran more than the limit of {self._limits.processes} processes and threads"
        hidden = deleted_files(pids)
        if hidden > self._limits.disk:
            self.limit = f"wrote more than the limit of {in_bytes(self._limits.disk)} to deleted files"
        self.check_group()
        if not self._network:
            self._network = network_counters(pids)
        self._count_network_attempts()

    def check_files(self) -> None:
        """Compares the size of the scratch folder, and what was printed, with the limits."""
        if self.limit is not None:
            return
        size = _folder_size(self._scratch, self._limits.disk)
        if self._printed.overflowed:
            self.limit = f"printed more than the limit of {in_bytes(self._limits.log)}"
        elif size is None:
            self.limit = "left folders in its scratch folder that cannot be looked into"
        elif size > self._limits.disk:
            self.limit = f"wrote more than the limit of {in_bytes(self._limits.disk)} to disk"

    def check_group(self) -> None:
        """Asks whether the kernel has killed a process of the step for its memory."""
        if self.limit is None and self._group is not None and self._group.killed_for_memory:
            self.limit = f"used more than the limit of {in_bytes(self._limits.memory)} of memory"

    def _count_network_attempts(self) -> None:
        attempts = 0
        for file in self._network:
            file.seek(0)
            lines = [line.split() for line in file if line.strip()]
            rows = [words for words in lines if words[0] == "Ip:"]  # names, and in the next line their values
            counters = dict(zip(*rows[:2], strict=False)) if rows else dict(words[:2] for words in lines)
            attempts += int(counters.get("OutNoRoutes" if rows else "Ip6OutNoRoutes", 0))
        self.network_attempts = attempts


def _folder_size(folder: Path, enough: int) -> int | None:
    """Bytes that a folder takes up, counted until they exceed `enough`; None if part of it cannot be read."""
    total, queue = 0, [(str(folder), 0)]
    while queue and total <= enough:
        path, depth = queue.pop()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        # an empty file takes up room as well
                        total += max(4096, 512 * entry.stat(follow_symlinks=False).st_blocks)
                        if entry.is_dir(follow_symlinks=False):
                            queue.append((entry.path, depth + 1))
                    if total > enough:
                        break
        except (FileNotFoundError, NotADirectoryError):
            continue  # the step may still run, and delete folders meanwhile
        except OSError:
            return None
        if depth > MOST_DEPTH:
            return None
    return total
