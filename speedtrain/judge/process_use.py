"""What a process and its descendants use, as Linux tells it in `/proc`."""

import contextlib
import ctypes
import os
import platform
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

KCMP, KCMP_FILES = {"x86_64": 312, "aarch64": 272}, 2
"""Number of the system call kcmp, and what it is to compare."""
_LIBC = ctypes.CDLL(None)


IO_WORKER = 0x10
"""Flag of a thread that the kernel made for a process's own input and output: it may run on any core."""


def descendants(pid: int) -> list[int]:
    """A process and all its living descendants."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):
                with contextlib.suppress(OSError):
                    found += map(int, Path(f"/proc/{parent}/task/{task}/children").read_text().split())
    return found


def tasks_of(pid: int) -> list[str]:
    """The folders of a process's threads. Its first thread may have ended before the others."""
    with contextlib.suppress(OSError):
        return [f"/proc/{pid}/task/{task}" for task in os.listdir(f"/proc/{pid}/task")]
    return []


def memory_of(tasks: list[str]) -> int:
    """Bytes of a process, by the first of its threads that is alive: an ended one does not tell."""
    for task in tasks:
        with contextlib.suppress(OSError, IndexError, ValueError):
            # its name, in the first line, may be any bytes
            status = Path(f"{task}/status").read_bytes().decode(errors="replace")
            fields = dict(line.split(":", 1) for line in status.split("\n") if ":" in line)
            if "RssAnon" in fields:
                return sum(int(fields[key].split()[0]) for key in ("RssAnon", "RssShmem") if key in fields) << 10
    return 0


def proportional_memory(pids: list[int]) -> int:
    """Bytes of all processes; a page that n of them share counts as 1/n for each. Exact, and slow."""
    total = 0
    for pid in pids:
        tasks = tasks_of(pid)
        for task in tasks:
            with contextlib.suppress(OSError):
                lines = Path(f"{task}/smaps_rollup").read_text().split("\n")
                kept = [line for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:"))]
                total += sum(int(line.split()[1]) << 10 for line in kept)
                if kept:  # the threads of a process share their memory
                    break
        else:  # a process can forbid to be looked into: it counts in full
            total += memory_of(tasks)
    return total


def _with_own_descriptors(pid: int) -> list[str]:
    """Of a process's threads one for each table of descriptors: nearly always the first alone."""
    found: list[str] = []
    for task in tasks_of(pid):
        number = int(task.rpartition("/")[2])
        if not any(_same_descriptors(number, int(other.rpartition("/")[2])) for other in found):
            found.append(task)
    return found


def _same_descriptors(one: int, other: int) -> bool:
    """Whether two threads share their table of descriptors, by kcmp(2); no where the kernel does not tell."""
    call = KCMP.get(platform.machine())
    return call is not None and _LIBC.syscall(call, one, other, KCMP_FILES, 0, 0) == 0


def may_run_on_others(tasks: list[str], cores: Sequence[int]) -> bool:
    """Whether one of these threads may run on other cores than those given: a program can change that from inside."""
    given = set(cores)
    for task in tasks:
        with contextlib.suppress(OSError, ValueError, IndexError):
            if not os.sched_getaffinity(int(task.rpartition("/")[2])) <= given:
                # behind the name, which may hold anything
                fields = Path(f"{task}/stat").read_bytes().rpartition(b")")[2].split()
                if not int(fields[6]) & IO_WORKER:
                    return True
    return False


def deleted_files(pids: list[int]) -> int:
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


def network_counters(pids: list[int]) -> list[TextIO]:
    """The counters of the step's own network, IPv4 and IPv6, as open files: they can be read after its end too."""
    ours = os.stat("/proc/self/ns/net").st_ino
    for pid in pids:
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}/ns/net").st_ino != ours:
                return [
                    open(path) for path in (f"/proc/{pid}/net/snmp", f"/proc/{pid}/net/snmp6") if os.path.exists(path)
                ]
    return []
