"""Run a command under a wall-clock budget that is enforced by a kill."""

import contextlib
import json
import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

Event = dict[str, Any]

EVENTS_VARIABLE = "TIMING_EVENTS"
"""Environment variable with the file descriptor to which a guarded command writes its events."""

EVENT_BYTES = 4096
_unsent = b""

GUARD_IS_LATE = 2.0
"""Seconds after the deadline at which a guard that has not answered counts as stopped, and is killed."""


@dataclass(frozen=True)
class ExitStatus:
    """How a guarded command ended.

    Attributes:
        reason: `exited` (by itself, or by a signal from elsewhere), `deadline`, `interrupted` (asked to end
            early) or `abandoned` (killed at once).
        returncode: its exit status, or minus the signal that ended it.
        wall_seconds: from its start to its end.
    """

    reason: Literal["exited", "deadline", "interrupted", "abandoned"]
    returncode: int
    wall_seconds: float


class Guarded:
    """A command in a process group of its own under a guard process, which at the deadline kills all of it
    with SIGKILL, whatever it is doing. The guard does not outlive the process that made it, and nothing of the
    command outlives the guard; should the guard itself be stopped or killed, what has left the process group may.
    POSIX; on Linux, what has left the process group is found too.

    Used as a context manager it kills the command on the way out, if that still runs:

        with Guarded(["python", "train.py"], seconds=600) as job:
            exit_status = job.wait()

    Args:
        command: program and arguments.
        seconds: the budget, counted from the start of the command's process; infinite for none.
        grace: seconds between a request to end early and the kill.
        env: environment of the command; default: this process's.
        cwd: folder to run in.
        output: where its standard output and error go; default: to this process's standard error.
        on_event: called, from within `wait`, with each event that the command sends with `send_event`. Without
            it the command gets no pipe, so an untrusted command cannot send anything.
    """

    def __init__(
        self,
        command: Sequence[str],
        seconds: float,
        *,
        grace: float = 10.0,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        output: IO[bytes] | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self._on_event = on_event
        self._seconds = seconds
        self._exit_status: ExitStatus | None = None
        self._events, theirs = os.pipe()
        guard = str(Path(__file__).with_name("guard.py"))
        env = dict(os.environ if env is None else env)
        env.pop(EVENTS_VARIABLE, None)
        if on_event is None:
            os.close(theirs)
            theirs = -1
        else:
            env[EVENTS_VARIABLE] = str(theirs)
        try:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", guard, str(seconds), str(grace), str(theirs), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=env,
                cwd=cwd,
                pass_fds=() if theirs < 0 else (theirs,),
                start_new_session=True,  # a Ctrl-C at the terminal is for us to handle
            )
        finally:
            if theirs >= 0:
                os.close(theirs)
        assert self._guard.stdout is not None
        start = self._guard.stdout.readline()
        if not start:
            self.close()
            raise OSError(f"could not start {command[0]}")
        self.pid, self.started = (json.loads(start)[key] for key in ("pid", "started"))

    def wait(self) -> ExitStatus:
        """Blocks until no process of the command is left. Passes on its events as they arrive."""
        assert self._guard.stdout is not None
        if self._exit_status is not None:
            return self._exit_status
        late = self.started + self._seconds + GUARD_IS_LATE
        answer, buffer, verdict = self._guard.stdout.fileno(), b"", b""
        open_pipes = {self._events, answer}
        while open_pipes:
            ready = select.select(list(open_pipes), [], [], min(max(0.0, late - time.monotonic()), 3600.0))[0]
            if not ready and time.monotonic() >= late:  # the guard itself is stopped
                self._exit_status = ExitStatus("deadline", -signal.SIGKILL, self._kill_without_guard())
                return self._exit_status
            for pipe in ready:
                chunk = os.read(pipe, 1 << 16)
                if not chunk:
                    open_pipes.remove(pipe)
                elif pipe == answer:
                    verdict += chunk
                else:
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in lines:
                        assert self._on_event is not None
                        self._on_event(json.loads(line))
        if verdict:
            self._guard.wait()
            self._exit_status = ExitStatus(**json.loads(verdict))
        else:  # the guard itself was killed
            self._exit_status = ExitStatus("exited", -signal.SIGKILL, self._kill_without_guard())
        return self._exit_status

    def _kill_without_guard(self) -> float:
        """Kills the command and the guard; returns the seconds from the command's start to the kill."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._guard.kill()
        self._guard.wait()
        age = time.monotonic() - self.started
        # SIGKILL takes effect later; nobody else waits for the group now, and `init` may never reap it
        gone_by = time.monotonic() + GUARD_IS_LATE
        with contextlib.suppress(ProcessLookupError, PermissionError):
            while time.monotonic() < gone_by:
                os.killpg(self.pid, 0)
                time.sleep(0.01)
        return age

    def interrupt(self) -> None:
        """Asks the command to end early: SIGTERM now, the kill after the grace."""
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            os.write(self._guard.stdin.fileno(), b"\n")

    def close(self) -> None:
        """Kills the command at once, if it still runs."""
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        if self._events < 0:
            return
        self._guard.stdin.close()
        try:
            self._guard.wait(GUARD_IS_LATE)
        except subprocess.TimeoutExpired:
            self._kill_without_guard()
        self._guard.stdout.close()
        os.close(self._events)
        self._events = -1

    def __enter__(self) -> "Guarded":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def send_event(event: Event) -> None:
    """From inside a guarded command: sends `event` to whoever guards it, or nowhere.

    Never waits: if nobody reads, the event is lost. At most 4,096 bytes as JSON. One process sends.

    Raises:
        ValueError: the event is longer.
    """
    variable = os.environ.get(EVENTS_VARIABLE)
    if variable is None:
        return
    line = json.dumps(event).encode() + b"\n"
    if len(line) > EVENT_BYTES:
        raise ValueError(f"an event of {len(line)} bytes is longer than {EVENT_BYTES}")
    global _unsent
    descriptor = int(variable)
    with contextlib.suppress(OSError):
        # a child of the command inherits the variable, but not the pipe
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.set_blocking(descriptor, False)
            # Linux takes up to 4,096 bytes whole or not at all; macOS may take a part, whose rest goes first next time
            while _unsent:
                _unsent = _unsent[os.write(descriptor, _unsent) :]
            _unsent = line[os.write(descriptor, line) :]
