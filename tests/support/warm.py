"""A Python that has imported already: what a test starts through it need not wait seconds for torch and Lightning.

    python warm.py serve SOCKET                        imports, then forks a process for every request
    python warm.py run SOCKET PROGRAM [ARGUMENT ...]   asks for a module or a .py file, and stands in for its process

The stand-in has the pipes, the signals and the exit status of the process it stands for, and takes it along when it is
killed, so that a guard notices no difference. The process's clock begins at its fork: imports cost it next to nothing.
Tests whose subject is the start of a process do not use this.
"""

import contextlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import warnings
from collections.abc import Iterator

EVENTS = "TIMING_EVENTS"


def serve(path: str) -> None:
    """Answers requests until its standard input ends, which it does with the process that started it."""
    from speedtrain.training.imports import import_lightning

    import_lightning()
    import timm  # noqa: F401

    guard_through(path)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who attend to requests
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(path)
        server.listen(64)
        while sys.stdin.fileno() not in select.select([server, sys.stdin.fileno()], [], [])[0]:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                attend(connection)
            connection.close()
    os._exit(0)


def attend(connection: socket.socket) -> None:
    """Forks the process asked for, and reports its pid and, once it is over, its exit status.

    When the process that stands in for it is gone, it is killed, stopped or not.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, descriptors, _, _ = socket.recv_fds(connection, 1 << 18, 3)
    pid = os.fork()
    if pid == 0:
        connection.close()
        become(descriptors, **json.loads(request))
    for descriptor in descriptors:
        os.close(descriptor)
    with contextlib.suppress(OSError):  # the one that stands in was killed already
        connection.send(str(pid).encode())
    over = os.pidfd_open(pid)
    if over not in select.select([over, connection], [], [])[0]:
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(OSError):
        connection.send(str(status).encode())
    os._exit(0)


def become(
    descriptors: list[int],
    program: str,
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    cores: list[int],
    deaf: bool,
) -> None:
    """Runs the program as `python` would, and ends.

    Args:
        cores: the cores that it may use; empty where the system cannot tell.
        deaf: whether it ignores SIGHUP, as under nohup. The warm Python may do so itself.
    """
    status = 1
    signal.signal(signal.SIGHUP, signal.SIG_IGN if deaf else signal.SIG_DFL)
    try:
        os.chdir(folder)
        if cores:
            os.sched_setaffinity(0, cores)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, descriptor in zip((1, 2), descriptors, strict=False):
            os.dup2(descriptor, number)
        if len(descriptors) > 2:
            environment[EVENTS] = str(descriptors[2])
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = [program, *arguments]
        warnings.simplefilter("ignore", RuntimeWarning)  # runpy's, of modules that are imported already
        if program.endswith(".py"):
            sys.path.insert(0, os.path.dirname(program))
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(path: str, program: str, arguments: list[str]) -> None:
    """Stands in for the program's process."""
    request = {
        "program": program,
        "arguments": arguments,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
        "deaf": signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
    }
    descriptors = [1, 2, *([int(os.environ[EVENTS])] if EVENTS in os.environ else [])]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(path)
        socket.send_fds(connection, [json.dumps(request).encode()], descriptors)
        for descriptor in descriptors[2:]:
            os.close(descriptor)
        pid = int(connection.recv(64))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _: os.kill(pid, number))
        status = int(connection.recv(64) or -signal.SIGKILL)
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def guard_through(path: str) -> None:
    """From here on this process guards modules of speedtrain in the warm Python that answers at `path`."""
    from timing import Guarded

    start = Guarded.__init__

    def start_warm(self: Guarded, command: list[str], *rest: object, **options: object) -> None:
        if command[0] == sys.executable and "-m" in command:
            program, *arguments = command[command.index("-m") + 1 :]
            command = through(path, program, *arguments)
        start(self, command, *rest, **options)  # type: ignore[arg-type]

    Guarded.__init__ = start_warm  # type: ignore[method-assign, assignment]


@contextlib.contextmanager
def processes(path: str) -> Iterator[None]:
    """The same, until the block ends."""
    from timing import Guarded

    start = Guarded.__init__
    guard_through(path)
    try:
        yield
    finally:
        Guarded.__init__ = start  # type: ignore[method-assign]


def through(path: str, program: str, *arguments: str) -> list[str]:
    """The command that runs a module or a .py file in the warm Python that answers at `path`."""
    return [sys.executable, "-I", "-S", __file__, "run", path, program, *arguments]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        run(sys.argv[2], sys.argv[3], sys.argv[4:])
