"""The guard: starts a command, and kills it with all its descendants when its time is up.

A program of its own, on the standard library alone, so that it stays light and depends on nothing that
may hang. It runs as

    python -I -S guard.py SECONDS GRACE DESCRIPTOR COMMAND [ARGUMENT ...]

and speaks with the process that started it over two pipes. On its standard output it writes two JSON
lines: `{"pid", "started"}` when the command is started and `{"reason", "returncode", "wall_seconds"}` when
nothing of it is left. On its standard input one byte asks for an early end (SIGTERM to the command,
SIGKILL to all of it GRACE seconds later) and the end of file, which also comes when the starting process
dies, kills at once. The file descriptor named, if not negative, is handed on to the command; what the
command prints goes to the guard's standard error.

`reason` is `exited`, `deadline`, `interrupted` or `abandoned`.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time

LINUX = sys.platform == "linux"
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of <sys/prctl.h>


def descendants() -> list[int]:
    """Every living process below this one. Linux only: elsewhere there is no way to ask without help."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
                if state != b"Z":
                    children.setdefault(int(parent), []).append(int(entry))
    found: list[int] = []
    queue = [os.getpid()]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def kill_all(group: int) -> None:
    """SIGKILL to the group and to whoever left it, until nobody is there."""
    while True:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        below = descendants() if LINUX else []
        if not below:
            return
        for pid in below:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def tell(message: dict[str, object]) -> None:
    """One line for the process that started the guard; nothing if that is dead already: then the input ends too."""
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), json.dumps(message).encode() + b"\n")


def guard(seconds: float, grace: float, descriptor: int, command: list[str]) -> None:
    """Runs `command` for at most `seconds`; see the module's text for the protocol."""
    prctl = ctypes.CDLL(None).prctl if LINUX else None
    if prctl:
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # who leaves the group becomes our child, not init's

    def in_child() -> None:
        if prctl:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # should the guard itself be killed

    wake, alarm = os.pipe()
    os.set_blocking(alarm, False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # a handler, since the command would inherit SIG_IGN
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)

    started = time.monotonic()
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        pass_fds=() if descriptor < 0 else (descriptor,),
        start_new_session=True,
        preexec_fn=in_child,
    )
    if descriptor >= 0:
        os.close(descriptor)
    tell({"pid": child.pid, "started": started})

    deadline, reason = started + seconds, "exited"
    listening = [wake, sys.stdin.fileno()]
    while child.poll() is None:
        wait = deadline - time.monotonic()
        if wait <= 0:
            if reason == "exited":
                reason = "deadline"
            break
        ready = select.select(listening, [], [], min(wait, 3600.0))[0]
        if wake in ready and signal.SIGTERM in os.read(wake, 4096):
            reason = "abandoned"
            break
        if sys.stdin.fileno() in ready:
            if not os.read(sys.stdin.fileno(), 1):
                reason = "abandoned"
                break
            reason = "interrupted"
            child.terminate()
            deadline = min(deadline, time.monotonic() + grace)

    if child.poll() is None:
        # The group goes first and the leader is reaped by Popen, so that its exit status is not lost.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    died = time.monotonic()
    kill_all(child.pid)
    tell({"reason": reason, "returncode": child.returncode, "wall_seconds": died - started})


if __name__ == "__main__":
    guard(float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
