"""Watches what all processes of a step use together, and ends the step when that exceeds a limit.

The kernel limits each process; only a look at all of them adds up what they use. Whatever Linux does not report in
`/proc` (a process that has just ended, say) is left out.
"""

import contextlib
import ctypes
import os
import platform
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from speedtrain.judge.settings import Limits, in_bytes
from timing import Guarded

LONGEST_WAIT = 0.2
FIRST_WAIT = 0.01
"""Seconds between two looks. The first looks are close together, so that a step that ends soon is seen too."""
LONGEST_PAUSE = 1.0
"""Seconds between two looks where looking itself takes long."""
MOST_DEPTH = 100
KCMP, KCMP_FILES = {"x86_64": 312, "aarch64": 272}, 2
"""Number of the system call kcmp, and what it is to compare."""
_LIBC = ctypes.CDLL(None)

IO_WORKER = 0x10
"""Flag of a thread that the kernel made for a process's own input and output: it may run on any core."""


class Watch:
    """Looks at a running step several times per second, in a thread of its own.

    Args:
        job: the step's process.
        scratch: the folder that the step may write to.
        log: the file that holds what the step prints.
        limits: the step is killed when it exceeds one of them.
        started: says whether the step's script runs already; before that its processes are not bound to cores yet.

    Attributes:
        limit: the limit that was exceeded, in words; None if none was.
        peak_memory: bytes, the most that a look found.
        network_attempts: packets that the step tried to send out of its sandbox.
    """

    def __init__(self, job: Guarded, scratch: Path, log: Path, limits: Limits, started: Callable[[], bool]) -> None:
        self._started = started
        self.limit: str | None = None
        self.peak_memory = 0
        self.network_attempts = 0
        self._job, self._scratch, self._log, self._limits = job, scratch, log, limits
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
            tasks = _tasks(pid)
            threads += len(tasks)
            memory += _memory(tasks)
            if started and not self._on_its_cores(tasks):
                self.limit = "ran on cores that it was not given"
        if memory > self._limits.memory:
            memory = min(memory, _proportional_memory(pids))  # shared pages were counted once per process
        self.peak_memory = max(self.peak_memory, memory)
        if memory > self._limits.memory:
            self.limit = f"used more than the limit of {in_bytes(self._limits.memory)} of memory"
        if threads > self._limits.processes:
            self.limit = f"ran more than the limit of {self._limits.processes} processes and threads"
        hidden = _deleted_files(pids)
        if hidden > self._limits.disk:
            self.limit = f"wrote more than the limit of {in_bytes(self._limits.disk)} to deleted files"
        if not self._network:
            self._network = _network_counters(pids)
        self._count_network_attempts()

    def check_files(self) -> None:
        """Compares the sizes of the scratch folder and of the log with the limits."""
        if self.limit is not None:
            return
        log = self._log.stat()
        if log.st_size > self._limits.log:
            self.limit = f"printed more than the limit of {in_bytes(self._limits.log)}"
            return
        # blocks can be taken beyond the end of the log: they count as disk, a file system's own reserve among them
        beyond = max(0, 512 * log.st_blocks - log.st_size)
        size = _folder_size(self._scratch, self._limits.disk)
        if size is None:
            self.limit = "left folders in its scratch folder that cannot be looked into"
        elif size + beyond > self._limits.disk:
            self.limit = f"wrote more than the limit of {in_bytes(self._limits.disk)} to disk"

    def _on_its_cores(self, tasks: list[str]) -> bool:
        """Whether these threads may run on the cores of the step alone: a program can change that from inside."""
        given = set(self._limits.cpus)
        for task in tasks:
            with contextlib.suppress(OSError, ValueError, IndexError):
                if not os.sched_getaffinity(int(task.rpartition("/")[2])) <= given:
                    # behind the name, which may hold anything
                    fields = Path(f"{task}/stat").read_bytes().rpartition(b")")[2].split()
                    if not int(fields[6]) & IO_WORKER:
                        return False
        return True

    def _count_network_attempts(self) -> None:
        attempts = 0
        for file in self._network:
            file.seek(0)
            lines = [line.split() for line in file if line.strip()]
            rows = [words for words in lines if words[0] == "Ip:"]  # names, and in the next line their values
            counters = dict(zip(*rows[:2], strict=False)) if rows else dict(words[:2] for words in lines)
            attempts += int(counters.get("OutNoRoutes" if rows else "Ip6OutNoRoutes", 0))
        self.network_attempts = attempts


def descendants(pid: int) -> list[int]:
    """A process and all its living descendants."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):
                with contextlib.suppress(OSError):
                    found += map(int, Path(f"/proc/{parent}/task/{task}/children").read_text().split())
    return found


def _tasks(pid: int) -> list[str]:
    """The folders of a process's threads. Its first thread may have ended before the others."""
    with contextlib.suppress(OSError):
        return [f"/proc/{pid}/task/{task}" for task in os.listdir(f"/proc/{pid}/task")]
    return []


def _memory(tasks: list[str]) -> int:
    """Bytes of a process, by the first of its threads that is alive: an ended one does not tell."""
    for task in tasks:
        with contextlib.suppress(OSError, IndexError, ValueError):
            # its name, in the first line, may be any bytes
            status = Path(f"{task}/status").read_bytes().decode(errors="replace")
            fields = dict(line.split(":", 1) for line in status.split("\n") if ":" in line)
            if "RssAnon" in fields:
                return sum(int(fields[key].split()[0]) for key in ("RssAnon", "RssShmem") if key in fields) << 10
    return 0


def _proportional_memory(pids: list[int]) -> int:
    """Bytes of all processes; a page that n of them share counts as 1/n for each. Exact, and slow."""
    total = 0
    for pid in pids:
        tasks = _tasks(pid)
        for task in tasks:
            with contextlib.suppress(OSError):
                lines = Path(f"{task}/smaps_rollup").read_text().split("\n")
                kept = [line for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:"))]
                total += sum(int(line.split()[1]) << 10 for line in kept)
                if kept:  # the threads of a process share their memory
                    break
        else:  # a process can forbid to be looked into: it counts in full
            total += _memory(tasks)
    return total


def _with_own_descriptors(pid: int) -> list[str]:
    """Of a process's threads one for each table of descriptors: nearly always the first alone."""
    found: list[str] = []
    for task in _tasks(pid):
        number = int(task.rpartition("/")[2])
        if not any(_same_descriptors(number, int(other.rpartition("/")[2])) for other in found):
            found.append(task)
    return found


def _same_descriptors(one: int, other: int) -> bool:
    """Whether two threads share their table of descriptors, by kcmp(2); no where the kernel does not tell."""
    call = KCMP.get(platform.machine())
    return call is not None and _LIBC.syscall(call, one, other, KCMP_FILES, 0, 0) == 0


def _deleted_files(pids: list[int]) -> int:
    """Bytes in files that are open but were deleted: no scan of a folder finds them."""
    sizes: dict[tuple[int, int], int] = {}
    for task in (task for pid in pids for task in _with_own_descriptors(pid)):
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(f"{task}/fd"):
                with contextlib.suppress(OSError):
                    found = os.stat(f"{task}/fd/{descriptor}")
                    if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                        sizes[found.st_dev, found.st_ino] = 512 * found.st_blocks
    return sum(sizes.values())


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


def _network_counters(pids: list[int]) -> list[TextIO]:
    """The counters of the step's own network, IPv4 and IPv6, as open files: they can be read after its end too."""
    ours = os.stat("/proc/self/ns/net").st_ino
    for pid in pids:
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}/ns/net").st_ino != ours:
                return [
                    open(path) for path in (f"/proc/{pid}/net/snmp", f"/proc/{pid}/net/snmp6") if os.path.exists(path)
                ]
    return []
