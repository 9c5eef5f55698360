"""Runs one step of a submission under a budget and limits, and tells how it ended.

The budget is enforced by `timing.Guarded`. The kernel holds each process to its share of memory and file size and
all to their number; what they use together, a thread here looks after, a few times a second.
"""

import contextlib
import os
import signal
import stat
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from speedtrain.judge.sandbox import Kind, Limits, Step, command, environment
from timing import ExitStatus, Guarded

LOOK_EVERY = 0.2
FIRST_LOOKS = 0.01
MOST_DEPTH = 100
PROCESS_WORDS = ("Resource temporarily unavailable", "can't start new thread")
MEMORY_WORDS = ("MemoryError", "not enough memory", "std::bad_alloc", "Cannot allocate memory", "can't allocate memory")


@dataclass(frozen=True)
class Outcome:
    """How a step ended.

    Attributes:
        reason: as of `timing.ExitStatus`, or `limit`.
        returncode: exit status, or minus the signal.
        wall_seconds: from start to exit_status.
        limit: which limit it hit, in words; None if none, the budget included.
        peak_memory: bytes, as far as looks a few times a second can tell.
        network_attempts: how often it tried to reach beyond itself.
        last_words: last line of the log.
    """

    reason: str
    returncode: int
    wall_seconds: float
    limit: str | None
    peak_memory: int
    network_attempts: int
    last_words: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def in_words(self) -> str:
        """One line for people."""
        if self.limit:
            return self.limit
        if self.reason == "deadline":
            return f"killed at the deadline ({self.wall_seconds:.1f} s)"
        if self.returncode == 0:
            return "ended by itself"
        if self.returncode < 0:
            how = f"died of {signal.Signals(-self.returncode).name}"
        else:
            how = f"ended with exit code {self.returncode}"
        return f"{how}, saying last: {self.last_words}" if self.last_words else how


def run(step: Step, limits: Limits, kind: Kind, log: Path) -> Outcome:
    """Runs a step to its end, whichever that is.

    Args:
        log: file for what it prints, whole up to the moment of a kill.

    Raises:
        OSError: it could not be started.
    """
    with open(log, "wb") as output:
        job = Guarded(
            command(step, limits, kind),
            limits.seconds,
            grace=0,
            env=environment(step, limits, kind),
            cwd=step.scratch,
            output=output,
        )
    with job, _Watch(job, step.scratch, log, limits) as watch:
        exit_status = job.wait()
    watch.look_at_files()  # what it wrote in its last moments counts too
    return _outcome(exit_status, watch, log, limits)


def _outcome(exit_status: ExitStatus, watch: "_Watch", log: Path, limits: Limits) -> Outcome:
    if log.stat().st_size > limits.log:
        os.truncate(log, limits.log)
    _make_plain(log)
    last_words = _last_line(log)
    returncode = exit_status.returncode
    if returncode > 128 and exit_status.reason == "exited":  # so a shell tells of a signal, and bwrap too
        returncode = 128 - returncode
    reason: str = exit_status.reason
    limit = watch.limit
    if limit is None and reason == "exited" and returncode != 0:
        if returncode == -signal.SIGXFSZ or "File too large" in last_words:
            limit = f"wrote a file larger than the limit of {in_bytes(limits.disk)}"
        elif any(word in last_words for word in PROCESS_WORDS):
            limit = f"ran more than the limit of {limits.processes} processes and threads: {last_words}"
        elif any(word in last_words for word in MEMORY_WORDS):
            limit = f"asked for more than the limit of {in_bytes(limits.memory)} of memory: {last_words}"
    if limit is not None:
        reason = "limit"
    return Outcome(
        reason,
        returncode,
        round(exit_status.wall_seconds, 3),
        limit,
        watch.peak_memory,
        watch.network_attempts,
        last_words,
    )


def _make_plain(log: Path) -> None:
    """Takes out of a log what would drive the terminal of its reader, or turn its text around."""
    text = log.read_bytes().decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    plain = "".join(c if c in "\n\t" or c.isprintable() else "\ufffd" for c in text)
    log.write_bytes(plain.encode())


def _last_line(log: Path) -> str:
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return "".join(c for c in lines[-1] if c.isprintable())[:200] if lines else ""


def in_bytes(number: int) -> str:
    """A number of bytes as a person writes it."""
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number} bytes"


class _Watch:
    """Looks at what all processes of a step use together, and ends the step where that is too much."""

    def __init__(self, job: Guarded, scratch: Path, log: Path, limits: Limits) -> None:
        self.limit: str | None = None
        self.peak_memory = 0
        self.network_attempts = 0
        self._job, self._scratch, self._log, self._limits = job, scratch, log, limits
        self._network: TextIO | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._count_network()
        if self._network is not None:
            self._network.close()

    def _watch(self) -> None:
        wait = FIRST_LOOKS
        while not self._over.wait(wait):
            begun = time.monotonic()
            self._look()
            self.look_at_files()
            if self.limit is not None:
                self._job.interrupt()  # without grace: a kill
                return
            # early on, often: what ends soon is to be seen too; but never more than a twentieth of the time
            wait = max(min(LOOK_EVERY, 2 * wait), 20 * (time.monotonic() - begun))

    def _look(self) -> None:
        pids = _family(self._job.pid)
        memory = threads = 0
        for pid in pids:
            with contextlib.suppress(OSError, IndexError, ValueError):
                status = Path(f"/proc/{pid}/status").read_text()
                fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
                memory += sum(int(fields[key].split()[0]) for key in ("RssAnon", "RssShmem") if key in fields) << 10
                threads += int(fields["Threads"])
        if memory > self._limits.memory:
            memory = min(memory, _fair_memory(pids))  # pages that processes share were counted for each of them
        self.peak_memory = max(self.peak_memory, memory)
        if memory > self._limits.memory:
            self.limit = f"used more than the limit of {in_bytes(self._limits.memory)} of memory"
        if threads > self._limits.processes:
            self.limit = f"ran more than the limit of {self._limits.processes} processes and threads"
        hidden = _deleted_files(pids)
        if hidden > self._limits.disk:
            self.limit = f"wrote more than the limit of {in_bytes(self._limits.disk)} to deleted files"
        if self._network is None:
            self._network = _network_counters(pids)
        self._count_network()

    def look_at_files(self) -> None:
        """Compares what is in the scratch folder and in the log with the limits."""
        if self.limit is not None:
            return
        if self._log.stat().st_size > self._limits.log:
            self.limit = f"printed more than the limit of {in_bytes(self._limits.log)}"
            return
        size = _size(self._scratch, self._limits.disk)
        if size is None:
            self.limit = "left folders in its scratch folder that cannot be looked into"
        elif size > self._limits.disk:
            self.limit = f"wrote more than the limit of {in_bytes(self._limits.disk)} to disk"

    def _count_network(self) -> None:
        """The packets that found no way out, by the counters of the step's own network."""
        if self._network is None:
            return
        self._network.seek(0)
        rows = [line.split() for line in self._network if line.startswith("Ip:")]
        counters = dict(zip(*rows[:2], strict=False))
        self.network_attempts = int(counters.get("OutNoRoutes", 0))


def _family(pid: int) -> list[int]:
    """A process and all its living descendants."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):
                with contextlib.suppress(OSError):
                    found += map(int, Path(f"/proc/{parent}/task/{task}/children").read_text().split())
    return found


def _fair_memory(pids: list[int]) -> int:
    """Bytes, with a page that n processes share counted n-th to each: exact, and slow."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    total += int(line.split()[1]) << 10
    return total


def _deleted_files(pids: list[int]) -> int:
    """Bytes in files that are open but have no name any more; no scan of a folder meets them."""
    sizes: dict[tuple[int, int], int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    found = os.stat(f"/proc/{pid}/fd/{descriptor}")
                    if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                        sizes[found.st_dev, found.st_ino] = 512 * found.st_blocks
    return sum(sizes.values())


def _size(folder: Path, enough: int) -> int | None:
    """Bytes that a folder takes up, counted until it is `enough`; None where it cannot be told."""
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
            continue  # it is alive, and folders come and go
        except OSError:
            return None
        if depth > MOST_DEPTH:
            return None
    return total


def _network_counters(pids: list[int]) -> TextIO | None:
    """The counters of the network that the step has for itself, kept open: they can be read after its exit_status."""
    ours = os.stat("/proc/self/ns/net").st_ino
    for pid in pids:
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}/ns/net").st_ino != ours:
                return open(f"/proc/{pid}/net/snmp")
    return None
