"""Where a submission runs: bubblewrap's namespaces, which hold nothing but the system, Python and its own files.

Inside, the submission sees /submission (its source, read-only), /inputs (the files it is given, read-only) and
/scratch, the only place it can write to; /tmp and /dev/shm are folders of it, so that one look at the scratch
folder tells all that was written. There is no network but a loopback of its own, no other process, no home.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from speedtrain.errors import UserError
from speedtrain.machine import core_numbers

Kind = Literal["bwrap", "none"]

NOBODY = 65534
"""Who a submission is where the judge is root: the kernel's limit of processes does not hold for root."""

ETC = {
    "passwd": "nobody:x:65534:65534:nobody:/scratch/home:/bin/false\n",
    "group": "nogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    # an address that nobody has: looking up a name then leaves a trace in the counters of the network
    "resolv.conf": "nameserver 192.0.2.1\noptions timeout:1 attempts:1\n",
}
SYSTEM_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "nsswitch.conf")


@dataclass(frozen=True)
class Limits:
    """What a step of a submission may use.

    Attributes:
        seconds: from its start to its kill.
        memory: bytes, all its processes together.
        disk: bytes written and not yet deleted, /tmp and shared memory included; also for a single file.
        processes: processes and threads alive at a time.
        log: bytes printed.
        cpus: the numbers of the cores it may use.
    """

    seconds: float
    memory: int
    disk: int
    processes: int = 1024
    log: int = 8 << 20
    cpus: tuple[int, ...] = field(default_factory=lambda: tuple(core_numbers()))


@dataclass(frozen=True)
class Step:
    """One program of a submission, and what it is given.

    Attributes:
        source: folder of the unpacked submission.
        script: file in it.
        arguments: of the script; a path is given as what it is called inside.
        inputs: files that it may read.
        scratch: folder that it may write to, new for every step.
        seed: told in the environment as SEED.
    """

    source: Path
    script: str
    arguments: Sequence[str | Path]
    inputs: Sequence[Path]
    scratch: Path
    seed: int


def prepare(scratch: Path) -> None:
    """Makes the scratch folder of a step, owned by whoever the step will be."""
    for folder in (scratch, *(scratch / name for name in ("tmp", "shm", "home"))):
        folder.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)


def command(step: Step, limits: Limits, kind: Kind) -> list[str]:
    """The command that runs a step under its limits."""
    paths = {step.source: "/submission", step.scratch: "/scratch"}
    paths |= {path: f"/inputs/{path.name}" for path in step.inputs}
    as_root = os.geteuid() == 0
    limited = ["taskset", "--cpu-list", ",".join(map(str, limits.cpus))]
    limited += ["prlimit", f"--data={limits.memory}", f"--fsize={limits.disk}", "--core=0"]
    # the watch kills at the limit; the kernel's own comes a little later, and holds until the watch looks
    limited += [f"--nproc={limits.processes + limits.processes // 8 + 8}"]
    if kind == "none":
        arguments = [str(argument) for argument in step.arguments]
        return [*limited, sys.executable, str(step.source / step.script), *arguments]

    arguments = []
    for argument in step.arguments:
        base = next((path for path in paths if isinstance(argument, Path) and argument.is_relative_to(path)), None)
        if base is not None and isinstance(argument, Path):
            arguments.append(str(Path(paths[base]) / argument.relative_to(base)))
        else:
            arguments.append(str(argument))
    wrap = [_tool("bwrap"), "--die-with-parent", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
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
    for device in sorted(Path("/dev").glob("nvidia*")):
        wrap += ["--dev-bind", str(device), str(device)]
    wrap += ["--dir", "/etc", "--dir", "/inputs"]
    etc = step.scratch.with_name("etc")
    _write_etc(etc)
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
    wrap += ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if as_root else []
    return [*wrap, *limited, sys.executable, f"/submission/{step.script}", *arguments]


def environment(step: Step, limits: Limits, kind: Kind) -> dict[str, str]:
    """All of a step's environment: nothing of the organiser's."""
    scratch = "/scratch" if kind == "bwrap" else str(step.scratch)
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": f"{scratch}/home",
        "TMPDIR": "/tmp" if kind == "bwrap" else f"{scratch}/tmp",
        "LANG": "C.UTF-8",
        "SEED": str(step.seed),
        "OMP_NUM_THREADS": str(len(limits.cpus)),
        "PYTHONUNBUFFERED": "1",  # what is printed is in the log at once: a kill loses none of it
        "PYTHONFAULTHANDLER": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def visible() -> list[Path]:
    """What of this machine a submission can read: the system's programs and libraries, and this Python."""
    system = [Path("/usr"), Path("/bin"), Path("/sbin"), Path("/lib"), Path("/lib32"), Path("/lib64")]
    python = {Path(sys.prefix), Path(sys.base_prefix)}
    outside = sorted(path for path in python if not path.is_relative_to("/usr"))
    return [path for path in system if path.exists()] + outside


def check(kind: Kind, secret: Mapping[str, Path]) -> None:
    """Makes sure that the sandbox works here and hides what is secret.

    Args:
        secret: option → path that no submission may read.

    Raises:
        UserError: it does not.
    """
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        raise UserError("judging needs Linux, with /proc and a kernel that tells a process's children")
    for tool in ("taskset", "prlimit", *(["setpriv"] if os.geteuid() == 0 else [])):
        _tool(tool)
    if kind == "none":
        return
    hint = "or give --sandbox none, which trusts the submissions with everything you can read and write"
    if shutil.which("bwrap") is None:
        raise UserError(f"bubblewrap (bwrap) is not installed: install it with your system's package manager, {hint}")
    for option, path in secret.items():
        for seen in visible():
            if path.resolve().is_relative_to(seen.resolve()):
                raise UserError(f"{option} {path}: submissions can read all of {seen}; move it elsewhere")
    with tempfile.TemporaryDirectory(prefix="speedtrain-") as folder:
        step = Step(Path(folder) / "source", "trial.py", [], [], Path(folder) / "scratch", seed=0)
        step.source.mkdir()
        step.source.chmod(0o755)
        (step.source / "trial.py").write_text("import json, math, zlib")
        prepare(step.scratch)
        limits = Limits(seconds=60, memory=1 << 30, disk=1 << 30)
        tried = subprocess.run(
            command(step, limits, kind),
            env=environment(step, limits, kind),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    if tried.returncode:
        said = " ".join(tried.stderr.split())[-200:]
        raise UserError(f"Python does not start in a bubblewrap sandbox here ({said}): allow user namespaces, {hint}")


def works() -> bool:
    """Whether bubblewrap can be used here."""
    try:
        check("bwrap", {})
    except UserError:
        return False
    return True


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise UserError(f"the program {name} is missing: install util-linux")
    return found


def _write_etc(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in ETC.items():
        (folder / name).write_text(content)
