"""The command that runs a step of a submission in a sandbox made by bubblewrap.

Inside, the submission sees the system, this Python, /submission (its source, read-only), /inputs (its input files,
read-only) and /scratch. It can write to /scratch alone: /tmp and /dev/shm are folders of /scratch, so that the size of
one folder is the size of all that was written. The sandbox has a loopback but no other network, no process of others,
and no home.
"""

import importlib.util
import os
import resource
import secrets
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from speedtrain.errors import UserError
from speedtrain.judge.control_groups import Group
from speedtrain.judge.settings import DEVICES, Kind, Limits, gpu_devices

NOBODY = 65534
STRANGERS = range(1 << 17, 1 << 18)
"""Numbers of users that submissions run as where the judge is root: another one for every step, so that nothing that
the kernel keeps per user passes from one to the next. The kernel does not limit the processes of root itself."""

PACKAGES = ("torch", "torchvision", "numpy", "timm", "lightning")
"""What every submission may import."""

MOST_OPEN_FILES = 4096
"""Of each process."""

LAUNCHER = Path(__file__).with_name("system_call_filter.py").read_text(encoding="utf-8")
"""The first program inside the sandbox, as text: the sandbox does not show this folder."""


def _has_ipv6() -> bool:
    """Whether a new network has the loopback address of IPv6: looking it up would else count as an attempt."""
    try:
        return Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").read_text().strip() == "0"
    except OSError:
        return False


HOST = "sandbox"
"""Its own name: programs that look it up, as for a loopback connection, do not reach for the network."""
ETC = {
    "passwd": "nobody:x:USER:USER:nobody:/scratch/home:/bin/false\n",
    "group": "nogroup:x:USER:\n",
    "hosts": f"127.0.0.1 localhost {HOST}\n" + (f"::1 localhost {HOST}\n" if _has_ipv6() else ""),
    # an address that nobody has: looking up a name then leaves a trace in the counters of the network
    "resolv.conf": "nameserver 192.0.2.1\noptions timeout:1 attempts:1\n",
}
SYSTEM_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "nsswitch.conf")


@dataclass(frozen=True)
class Step:
    """One script of a submission, and what it is given.

    All paths are absolute: the sandbox is made from within another folder.

    Attributes:
        source: folder of the unpacked submission.
        script: name of the script, a file in `source`.
        arguments: of the script; a `Path` is translated to its name inside the sandbox.
        inputs: files that the script may read.
        scratch: folder that the script may write to, new for every step.
        seed: value of the environment variable SEED.
        user: number of the user that it runs as where the judge is root. Default: one that no step had.
    """

    source: Path
    script: str
    arguments: Sequence[str | Path]
    inputs: Sequence[Path]
    scratch: Path
    seed: int
    user: int = field(default_factory=lambda: _stranger())

    def __post_init__(self) -> None:
        relative = [path for path in (self.source, self.scratch, *self.inputs) if not path.is_absolute()]
        if relative:
            raise ValueError(f"{relative[0]} must be an absolute path")


def _stranger() -> int:
    """A user that nobody is; *nobody* where this process may not become another."""
    try:
        first, _, count = map(int, Path("/proc/self/uid_map").read_text().split("\n")[0].split())
    except (OSError, ValueError):
        return NOBODY
    return secrets.choice(STRANGERS) if first + count >= STRANGERS.stop else NOBODY


def command(step: Step, limits: Limits, kind: Kind, group: Group | None) -> list[str]:
    """The command that runs a step under its limits.

    Args:
        group: the control group that the step will be in: it sees that one alone, as in a container.
    """
    paths = {step.source: "/submission", step.scratch: "/scratch"}
    paths |= {path: f"/inputs/{path.name}" for path in step.inputs}
    as_root = os.geteuid() == 0
    # outside of the sandbox, so that all of its processes are bound, from the first one on
    bound = ["taskset", "--cpu-list", ",".join(map(str, limits.cpus))]
    limited = ["prlimit", f"--data={limits.memory}", f"--fsize={limits.disk}", "--core=0"]
    # `Watch` kills at the limit; the kernel's limit is a little higher, and holds until the next look
    most_open = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limited += [f"--nofile={min(MOST_OPEN_FILES, most_open)}"]  # a look at all of them must not take long
    limited += [f"--nproc={limits.processes + limits.processes // 8 + 8}"]
    limited += [sys.executable, "-I", "-c", LAUNCHER]
    if kind == "none":
        return [*bound, *limited, str(step.source / step.script), *map(str, step.arguments)]

    arguments = []
    for argument in step.arguments:
        base = next((path for path in paths if isinstance(argument, Path) and argument.is_relative_to(path)), None)
        if base is not None and isinstance(argument, Path):
            arguments.append(str(Path(paths[base]) / argument.relative_to(base)))
        else:
            arguments.append(str(argument))
    wrap = [find_tool("bwrap"), "--die-with-parent", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    wrap += ["--hostname", HOST]
    wrap += ["--unshare-cgroup-try"] if as_root else ["--unshare-cgroup-try", "--unshare-user"]
    wrap += ["--bind", str(step.scratch / "tmp"), "/tmp"]  # first: this Python may live in a folder of /tmp
    for path in visible():
        for parent in reversed(path.parents[:-1]):  # made by a bind, they would be closed to others
            wrap += ["--dir", str(parent)]
        if path.is_symlink() and path.parent == Path("/"):
            wrap += ["--symlink", os.readlink(path), str(path)]
        else:
            wrap += ["--ro-bind", str(path), str(path)]
    wrap += ["--proc", "/proc", "--dev", "/dev", "--ro-bind-try", "/sys", "/sys"]
    wrap += ["--tmpfs", "/sys/fs/cgroup"] if Path("/sys/fs/cgroup").is_dir() else []
    for name, folder in group.shown().items() if group else ():
        wrap += ["--ro-bind", str(folder), f"/sys/fs/cgroup/{name}"]
    wrap += ["--remount-ro", "/sys/fs/cgroup"] if Path("/sys/fs/cgroup").is_dir() else []
    for device in _devices(limits.gpus):
        wrap += ["--dev-bind", str(device), str(device)]
    wrap += ["--dir", "/etc", "--dir", "/inputs"]
    etc = step.scratch.with_name("etc")
    _write_etc(etc, step.user if as_root else os.geteuid())
    for name in ETC:
        wrap += ["--ro-bind", str(etc / name), f"/etc/{name}"]
    for name in SYSTEM_ETC:
        wrap += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    wrap += ["--ro-bind", str(step.source), "/submission"]
    for path in step.inputs:
        wrap += ["--ro-bind", str(path), paths[path]]
    wrap += ["--bind", str(step.scratch), "/scratch"]
    wrap += ["--bind", str(step.scratch / "shm"), "/dev/shm", "--remount-ro", "/dev", "--remount-ro", "/"]
    wrap += ["--chdir", "/scratch", "--"]
    wrap += ["setpriv", f"--reuid={step.user}", f"--regid={step.user}", "--clear-groups"] if as_root else []
    return [*bound, *wrap, *limited, f"/submission/{step.script}", *arguments]


def environment(step: Step, limits: Limits, kind: Kind) -> dict[str, str]:
    """All environment variables of a step; the organiser's are not among them."""
    scratch = "/scratch" if kind == "bwrap" else str(step.scratch)
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": f"{scratch}/home",
        "TMPDIR": "/tmp" if kind == "bwrap" else f"{scratch}/tmp",
        "LANG": "C.UTF-8",
        "SEED": str(step.seed),
        "OMP_NUM_THREADS": str(len(limits.cpus)),
        "PYTHONUNBUFFERED": "1",  # so that a kill loses nothing that was printed
        "PYTHONFAULTHANDLER": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **_visible_gpus(limits, kind),
        **({"PYTHONPATH": os.pathsep.join(map(str, package_folders()))} if package_folders() else {}),
    }


def _visible_gpus(limits: Limits, kind: Kind) -> dict[str, str]:
    """Without a sandbox the devices of all GPUs are there: this variable hides the others."""
    if kind == "bwrap" or limits.gpus is None:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, limits.gpus))}


def _devices(gpus: tuple[int, ...] | None) -> list[Path]:
    """The device files for these GPUs, or for all: those of the GPUs, and those that control them."""
    if gpus == ():
        return []
    given = [path for number, path in enumerate(gpu_devices()) if gpus is None or number in gpus]
    return [path for path in sorted(DEVICES.glob("nvidia*")) if path not in gpu_devices() or path in given]


@cache
def package_folders() -> tuple[Path, ...]:
    """Where packages lie that every submission may import, outside of this Python's own folders: such as the folder of
    packages that a user has installed for himself."""
    own = [Path("/usr"), Path(sys.prefix), Path(sys.base_prefix)]
    found: list[Path] = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        for folder in map(Path, (spec.submodule_search_locations or []) if spec else []):
            if folder.parent not in found and not any(folder.is_relative_to(path) for path in own):
                found.append(folder.parent)
    return tuple(found)


def visible() -> list[Path]:
    """What of this machine a submission can read: the system's programs and libraries, and this Python."""
    system = [Path("/usr"), Path("/bin"), Path("/sbin"), Path("/lib"), Path("/lib32"), Path("/lib64")]
    python = {Path(sys.prefix), Path(sys.base_prefix)}
    python |= set(package_folders())
    outside = sorted(path for path in python if not path.is_relative_to("/usr"))
    return [path for path in system if path.exists()] + outside


def find_tool(name: str) -> str:
    """The absolute path of a program.

    Raises:
        UserError: it is not installed.
    """
    found = shutil.which(name)
    if found is None:
        raise UserError(f"the program {name} is missing: install util-linux")
    return os.path.abspath(found)


def _write_etc(folder: Path, user: int) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in ETC.items():
        (folder / name).write_text(content.replace("USER", str(user)))
        (folder / name).chmod(0o644)
