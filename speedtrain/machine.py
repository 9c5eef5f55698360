"""The machine that this process runs on: its cores, its memory, its processor. Nothing else in speedtrain asks."""

import os
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path


def available_cores(root: Path = Path("/")) -> int:
    """How many cores this process may use: bounded by its affinity and by its control group, at least 1.

    A quota of a part of a core is rounded down: two threads that share 1.5 cores wait for each other.

    Args:
        root: where `/proc` and `/sys` are; default: the machine's own.
    """
    bound = len(_affinity())
    quotas = [quota for quota in _cpu_quotas(root) if quota is not None]
    return max(1, min([bound, *map(int, quotas)]))


def core_numbers() -> list[int]:
    """The numbers of the cores this process may use, in ascending order; as many as `available_cores`."""
    return _affinity()[: available_cores()]


def bind_to_cores(pid: int, cores: Sequence[int]) -> None:
    """Binds a process, and every process that it starts from now on, to some cores, where the system can do this.

    A process that has ended already is left alone.
    """
    if hasattr(os, "sched_setaffinity"):
        with suppress(ProcessLookupError):
            os.sched_setaffinity(pid, cores)


def total_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may use: those of the machine, or of its control group where that has fewer.

    Args:
        root: as for `available_cores`.
    """
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *(limit for _, limit in _memory_limits(root))])


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may take still: of the machine, or of its control group where that has fewer.

    What the kernel keeps of files that were read or written is free, since it gives that up for a process.

    Args:
        root: as for `available_cores`.
    """
    free = [total_memory(root)]  # where the system does not tell
    for line in _read(root / "proc/meminfo").splitlines():
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            free.append(int(amount.split()[0]) << 10)
    for group, limit in _memory_limits(root):
        used = _read(group / "memory.current") or _read(group / "memory.usage_in_bytes")
        if used.isdigit():
            free.append(limit - int(used) + _kept_of_files(group))
    return max(0, min(free))


def is_in_memory(folder: Path, root: Path = Path("/")) -> bool:
    """Whether files in the folder take memory, as in a tmpfs; no where the system does not tell.

    Args:
        folder: an existing one.
        root: as for `available_cores`.
    """
    folder, nearest, kind = folder.resolve(), -1, ""
    for line in _read(root / "proc/mounts").splitlines():
        _, place, this, *_ = line.split(" ")
        mounted = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), place))
        if folder.is_relative_to(mounted) and len(mounted.parts) >= nearest:  # of two at one place, the later is on top
            nearest, kind = len(mounted.parts), this
    return kind in ("tmpfs", "ramfs")


def processor_name() -> str:
    """The processor's name, by the system."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _affinity() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _cpu_quotas(root: Path) -> Iterator[float | None]:
    """Cores that each control group around this process allows; None where it sets no limit."""
    for group in _groups(root, "cpu"):
        text = _read(group / "cpu.max")  # version 2
        quota, _, period = text.partition(" ")
        if not text:  # version 1
            quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        yield int(quota) / int(period) if quota.isdigit() and period.isdigit() else None  # "max", or -1: no limit


def _memory_limits(root: Path) -> Iterator[tuple[Path, int]]:
    """The control groups around this process that set a limit, each with the bytes that it allows."""
    for group in _groups(root, "memory"):
        limit = _read(group / "memory.max") or _read(group / "memory.limit_in_bytes")
        if limit.isdigit():
            yield group, int(limit)


def _kept_of_files(group: Path) -> int:
    """Bytes of files that the kernel keeps in memory, and counts as used by a control group."""
    facts = dict(line.partition(" ")[::2] for line in _read(group / "memory.stat").splitlines())
    # in version 1, what has no total in its name leaves out the groups inside, which the use counts
    return sum(int(facts.get(f"total_{name}", facts.get(name, 0))) for name in ("active_file", "inactive_file"))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups that this process is in, with all groups around them.

    Inside a container the group's path may be the host's, of which only the last part, mounted as the top, is there.
    """
    mounted = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2, which has one tree for all controllers
            trees = [mounted, mounted / "unified"]
        elif controller in controllers.split(","):
            trees = [mounted / controllers, mounted / controller]
        else:
            continue
        for tree in trees:
            group = tree / path.lstrip("/")
            while group.is_relative_to(tree):
                yield group
                group = group.parent


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
