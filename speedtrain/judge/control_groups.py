"""Limits that the kernel holds on all processes of a step together: control groups, of version 2 or 1.

Root can make groups where the system lets it. An ordinary user can where the group that it is in, with no one else, was
given to it, as by `systemd-run --user --scope -p Delegate=yes COMMAND`. Where no group can be made, `limit_watch` alone
adds up what the processes use, several times per second.
"""

import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from speedtrain.judge.process_use import descendants
from speedtrain.judge.settings import Limits

NEEDED = ("memory", "pids")
OWN_GROUPS = Path("/proc/self/cgroup")
CONTROLLERS = (*NEEDED, "cpuset")
"""Without `cpuset` the cores are bound by each process's affinity, and watched."""
PREFIX, LEAF = "speedtrain-", "judge"
HELPERS = 8
"""Processes of the sandbox's own, which are in the group too."""
KERNEL_PART = 16
"""A group counts what the kernel needs for its processes too: its limit is higher by one part in so many."""
NEARLY = 4 << 20
"""Bytes below its limit at which a group of version 1 counts as full: what one process can ask for at once."""
LEFT_OVER_SECONDS = 60.0
"""A group that is empty, and older than this, was left by a judge that is gone."""
REMOVAL_SECONDS = 2.0
"""How long is waited until the last process has left a group."""

JOIN = 'while [ "$1" != -- ]; do echo $$ >"$1" || exit 71; shift; done; shift; exec "$@"'
"""Puts a shell into groups, whose files stand before `--`, and becomes the command that follows."""


class NoControlGroups(Exception):
    """No control group can be made; the message says why."""


@dataclass(frozen=True)
class Group:
    """The group of one step. Used in a `with` block: it is removed at its end.

    Attributes:
        version: 1 or 2.
        folders: controller → the group's folder; in version 2 the same for all.
    """

    version: int
    folders: Mapping[str, Path]

    def make(self, limits: Limits) -> None:
        """Makes the group. Bounds memory without swap, processes and threads, and cores where the group has them.

        Raises:
            OSError: the kernel refused.
        """
        for folder in self._all:
            folder.mkdir()
        memory, pids = self.folders["memory"], self.folders["pids"]
        most = limits.memory + limits.memory // KERNEL_PART
        if self.version == 2:
            _write(memory / "memory.max", most)
            _write_where_it_is(memory / "memory.swap.max", 0)
            _write_where_it_is(memory / "memory.oom.group", 1)
        else:
            _write(memory / "memory.limit_in_bytes", most)
            _write_where_it_is(memory / "memory.memsw.limit_in_bytes", most)
            _write_where_it_is(memory / "memory.swappiness", 0)  # without memsw, the kernel does not count swap
        _write(pids / "pids.max", limits.processes + HELPERS)
        if cores := self.folders.get("cpuset"):
            if self.version == 1:  # a new group has no memory nodes
                _write(cores / "cpuset.mems", (cores.parent / "cpuset.mems").read_text().strip())
            _write(cores / "cpuset.cpus", ",".join(map(str, limits.cpus)))
        joined = subprocess.run(self.joined(["true"]), capture_output=True, check=False)
        if joined.returncode:
            raise OSError(joined.returncode, "no process can be moved into a group", str(memory))

    @property
    def _all(self) -> list[Path]:
        return list(dict.fromkeys(self.folders.values()))

    @property
    def bounds(self) -> tuple[str, ...]:
        """What it limits, in words."""
        return ("memory", "processes", *(("cores",) if "cpuset" in self.folders else ()))

    def joined(self, command: Sequence[str]) -> list[str]:
        """The command, such that it and all its children are in the group from the first one on."""
        files = [str(folder / "cgroup.procs") for folder in self._all]
        return ["sh", "-c", JOIN, "sh", *files, "--", *command]

    def shown(self) -> dict[str, Path]:
        """Name below /sys/fs/cgroup → folder that a program in the group sees there."""
        if self.version == 2:
            return {"": self.folders["memory"]}
        return dict(self.folders)

    @property
    def killed_for_memory(self) -> bool:
        """Whether the kernel has killed one of its processes because the group had reached its limit.

        Where the machine itself has no memory left, the kernel may kill one too.
        """
        memory = self.folders["memory"]
        words = _read(memory / ("memory.events" if self.version == 2 else "memory.oom_control")).split()
        counts = dict(zip(words[::2], words[1::2], strict=False))
        if self.version == 2:
            reached = counts.get("oom", "0") != "0"
        else:
            most, limit = (int(_read(memory / f"memory.{key}_in_bytes") or 0) for key in ("max_usage", "limit"))
            reached = most + NEARLY >= limit
        return counts.get("oom_kill", "0") != "0" and reached

    def remove(self) -> None:
        """Kills what is left in it, and removes it."""
        with suppress(OSError):
            _write(self.folders["memory"] / "cgroup.kill", 1)  # of version 2
        end = time.monotonic() + REMOVAL_SECONDS
        for folder in self._all:
            while folder.is_dir() and time.monotonic() < end:
                with suppress(OSError):
                    folder.rmdir()
                    break
                time.sleep(0.01)

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def new_group(limits: Limits) -> Group:
    """A new group with these limits.

    Raises:
        NoControlGroups: none can be made here.
    """
    problems = []
    for version, find in ((2, _folders_of_version_2), (1, _folders_of_version_1)):
        for parents in find():
            for wanted in (CONTROLLERS, NEEDED):  # where the cores cannot be bound, the rest can
                name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
                folders = {controller: parents[controller] / name for controller in wanted if controller in parents}
                for parent in set(parents.values()):
                    _remove_left_overs(parent)
                group = Group(version, folders)
                try:
                    group.make(limits)
                    return group
                except OSError as error:
                    group.remove()
                    problems.append(f"{error.filename}: {error.strerror}")
    raise NoControlGroups(problems[0] if problems else "this process may make none that limit memory and processes")


def _folders_of_version_2() -> Iterator[dict[str, Path]]:
    """Folders in which groups of version 2 may be made: this process's own group, and the top."""
    for mounted, _ in _mounts("cgroup2"):
        lines = _read(OWN_GROUPS).splitlines()
        own = mounted / next((line[3:] for line in lines if line.startswith("0::")), "/").lstrip("/")
        if own.name == LEAF:  # it was moved there before
            own = own.parent
        offered = _read(own / "cgroup.controllers").split()
        for wanted in (CONTROLLERS, NEEDED):
            # a group that passes its controllers on must have no process of its own
            if set(wanted) <= set(offered) and (
                _enable(own, wanted) or (_move_into_a_leaf(own) and _enable(own, wanted))
            ):
                yield dict.fromkeys(wanted, own)
                break
        passed_on = _read(mounted / "cgroup.subtree_control").split()  # the top is the system's own: as it is
        if own != mounted and set(NEEDED) <= set(passed_on):
            yield {controller: mounted for controller in CONTROLLERS if controller in passed_on}


def _enable(folder: Path, controllers: Sequence[str]) -> bool:
    """Whether the groups in a folder have these controllers, now."""
    if set(controllers) <= set(_read(folder / "cgroup.subtree_control").split()):
        return True
    with suppress(OSError):
        _write(folder / "cgroup.subtree_control", " ".join(f"+{controller}" for controller in controllers))
        return True
    return False


def _move_into_a_leaf(folder: Path) -> bool:
    """Moves this process and its children from a group into a group below; False where the group has others too."""
    pids = set(map(int, _read(folder / "cgroup.procs").split()))
    if not pids or not pids <= set(descendants(os.getpid())):
        return False
    leaf = folder / LEAF
    with suppress(OSError):
        leaf.mkdir(exist_ok=True)
        for pid in pids:
            _write(leaf / "cgroup.procs", pid)
        return True
    return False


def _folders_of_version_1() -> Iterator[dict[str, Path]]:
    """Folders in which groups of version 1 may be made: this process's own groups."""
    own: dict[str, str] = {}
    for line in _read(OWN_GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), path)
    found: dict[str, Path] = {}
    for mounted, options in _mounts("cgroup"):
        for controller in CONTROLLERS:
            if controller in options:
                inside = mounted / own.get(controller, "/").lstrip("/")
                found[controller] = inside if inside.is_dir() else mounted
    if set(NEEDED) <= set(found):
        yield found


def _mounts(kind: str) -> Iterator[tuple[Path, set[str]]]:
    """Where file systems of a kind are mounted, with their options."""
    for line in _read(Path("/proc/self/mountinfo")).splitlines():
        before, _, after = line.partition(" - ")
        system, _, options = after.split(" ", 2)
        if system == kind:
            yield Path(before.split()[4]), set(options.split(","))


def _remove_left_overs(folder: Path) -> None:
    """Removes the empty groups of judges that were killed."""
    for group in folder.glob(f"{PREFIX}*-*"):
        pid = group.name.removeprefix(PREFIX).partition("-")[0]
        with suppress(OSError):
            # a judge in another container may have a number that is unknown here
            if not Path(f"/proc/{pid}").exists() and time.time() - group.stat().st_ctime > LEFT_OVER_SECONDS:
                group.rmdir()


def _write(file: Path, value: object) -> None:
    # not write_text: the kernel wants it in one call, and makes no file
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, str(value).encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None
    finally:
        os.close(descriptor)


def _write_where_it_is(file: Path, value: object) -> None:
    with suppress(FileNotFoundError):
        _write(file, value)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
