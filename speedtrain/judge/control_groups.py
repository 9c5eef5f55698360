"""Limits that the kernel holds on all processes of a step together: control groups, of version 2 or 1.

Root can make groups nearly everywhere. An ordinary user can where its own group was given to it, as by
`systemd-run --user --scope -p Delegate=yes COMMAND`. Where no group can be made, `limit_watch` alone adds up what the
processes use, several times per second.
"""

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from speedtrain.judge.process_use import descendants
from speedtrain.judge.settings import Limits

NEEDED = ("memory", "pids")
CONTROLLERS = (*NEEDED, "cpuset")
"""Without `cpuset` the cores are bound by each process's affinity, and watched."""
PREFIX = "speedtrain-"
HELPERS = 8
"""Processes of the sandbox's own, which are in the group too."""

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

    def set_limits(self, limits: Limits) -> None:
        """Bounds memory without swap, processes and threads, and cores where the group has them.

        Raises:
            OSError: the kernel refused.
        """
        memory, pids = self.folders["memory"], self.folders["pids"]
        if self.version == 2:
            _write(memory / "memory.max", limits.memory)
            _write_where_it_is(memory / "memory.swap.max", 0)
            _write_where_it_is(memory / "memory.oom.group", 1)
        else:
            _write(memory / "memory.limit_in_bytes", limits.memory)
            _write_where_it_is(memory / "memory.memsw.limit_in_bytes", limits.memory)
        _write(pids / "pids.max", limits.processes + HELPERS)
        if cores := self.folders.get("cpuset"):
            if self.version == 1:  # a new group has no memory nodes
                _write(cores / "cpuset.mems", (cores.parent / "cpuset.mems").read_text().strip())
            _write(cores / "cpuset.cpus", ",".join(map(str, limits.cpus)))

    @property
    def bounds(self) -> tuple[str, ...]:
        """What it limits, in words."""
        return ("memory", "processes", *(("cores",) if "cpuset" in self.folders else ()))

    def joined(self, command: Sequence[str]) -> list[str]:
        """The command, such that it and all its children are in the group from the first one on."""
        files = [str(folder / "cgroup.procs") for folder in dict.fromkeys(self.folders.values())]
        return ["sh", "-c", JOIN, "sh", *files, "--", *command]

    def shown(self) -> dict[str, Path]:
        """Name below /sys/fs/cgroup → folder that a program in the group sees there."""
        if self.version == 2:
            return {"": self.folders["memory"]}
        return dict(self.folders)

    @property
    def killed_for_memory(self) -> bool:
        """Whether the kernel has killed one of its processes because they used more memory than allowed."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        words = _read(self.folders["memory"] / name).split()
        return any(key == "oom_kill" and value != "0" for key, value in pairwise(words))

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_: object) -> None:
        for folder in dict.fromkeys(self.folders.values()):
            with suppress(OSError):
                folder.rmdir()


def new_group(limits: Limits) -> Group:
    """A new group with these limits.

    Raises:
        NoControlGroups: none can be made here.
    """
    problems = []
    for version, find in ((2, _folders_of_version_2), (1, _folders_of_version_1)):
        for parents in find():
            name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
            group = Group(version, {controller: parent / name for controller, parent in parents.items()})
            try:
                for folder in dict.fromkeys(group.folders.values()):
                    _remove_left_overs(folder.parent)
                    folder.mkdir()
                group.set_limits(limits)
                return group
            except OSError as error:
                group.__exit__()
                problems.append(f"{error.filename or next(iter(parents.values()))}: {error.strerror}")
    raise NoControlGroups(problems[0] if problems else "this system has none that limit memory and processes")


def _folders_of_version_2() -> Iterator[dict[str, Path]]:
    """Folders in which groups of version 2 may be made: this process's own group, and the top."""
    for mounted, _ in _mounts("cgroup2"):
        own = next((line[3:] for line in _read(Path("/proc/self/cgroup")).splitlines() if line.startswith("0::")), "/")
        for folder in dict.fromkeys((mounted / own.lstrip("/"), mounted)):
            offered = _read(folder / "cgroup.controllers").split()
            if not set(NEEDED) <= set(offered):
                continue
            wanted = [controller for controller in CONTROLLERS if controller in offered]
            # a group that passes its controllers on must have no process of its own
            if not _enable(folder, wanted) and not (_move_into_a_leaf(folder) and _enable(folder, wanted)):
                continue
            yield dict.fromkeys(wanted, folder)


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
    if not pids or not pids <= {0, *descendants(os.getpid())}:
        return False
    leaf = folder / "judge"
    with suppress(OSError):
        leaf.mkdir(exist_ok=True)
        for pid in pids:
            _write(leaf / "cgroup.procs", pid)
        return True
    return False


def _folders_of_version_1() -> Iterator[dict[str, Path]]:
    """Folders in which groups of version 1 may be made: this process's own groups."""
    own: dict[str, str] = {}
    for line in _read(Path("/proc/self/cgroup")).splitlines():
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
        if not Path(f"/proc/{pid}").exists():
            with suppress(OSError):
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
