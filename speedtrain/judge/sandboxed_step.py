"""Runs one step of a submission within its budget and limits, and reports how it ended.

`timing.Guarded` enforces the budget. The kernel enforces the limits of each process and, where control groups can be
made, those of all processes together; `Watch` adds them up everywhere.

The judge must know whether the submission's own code has begun, because a failure before that is never the
submission's. So the first program inside the sandbox is a launcher (`system_call_filter.py`): it sends the
judge an event, closes the pipe of events, and then becomes the script. No code of the submission has run when the
event is sent, and none can take it back or send another.
"""

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speedtrain.errors import UserError
from speedtrain.judge.control_groups import Group, NoControlGroups, new_group
from speedtrain.judge.limit_watch import Watch
from speedtrain.judge.printed_log import PrintedLog, last_line, last_line_with, make_plain, quoted
from speedtrain.judge.sandbox import Step, command, environment
from speedtrain.judge.scratch import has_own_size
from speedtrain.judge.settings import Kind, Limits, in_bytes
from timing import ExitStatus, Guarded

DISK_WORDS = ("No space left on device",)
PROCESS_WORDS = ("Resource temporarily unavailable", "can't start new thread")
MEMORY_WORDS = ("MemoryError", "not enough memory", "std::bad_alloc", "Cannot allocate memory", "can't allocate memory")


@dataclass(frozen=True)
class Outcome:
    """How a step ended.

    Attributes:
        reason: as of `timing.ExitStatus`, or `limit`.
        returncode: exit status, or minus the signal.
        wall_seconds: from the start of the process to its end.
        limit: the limit that it exceeded, in words; None if none. The budget is not among these limits.
        peak_memory: bytes, the most that a look several times per second found.
        network_attempts: packets that it tried to send out of its sandbox.
        last_words: last line of the log.
        by_kernel: which limits on all processes together the kernel held: of memory, processes, cores, disk. Those
            left out were looked at several times per second alone.
    """

    reason: str
    returncode: int
    wall_seconds: float
    limit: str | None
    peak_memory: int
    network_attempts: int
    last_words: str
    by_kernel: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def in_words(self, *, quoting: bool = True) -> str:
        """One line for people.

        Args:
            quoting: whether it may quote the log. Default: yes.
        """
        if self.limit:
            return self.limit
        if self.reason == "deadline":
            return f"killed at the deadline ({self.wall_seconds:.1f} s)"
        if self.returncode == 0:
            return "ended by itself"
        name = _signal(self.returncode)
        if self.returncode < 0:
            how = f"died of {name}"
        else:
            how = f"ended with exit code {self.returncode}" + (f" ({name}, if a signal ended it)" if name else "")
        return f"{how}; the last line of its log: {quoted(self.last_words)}" if quoting and self.last_words else how


def _signal(returncode: int) -> str | None:
    """The signal that an exit status may stand for; None if it stands for none.

    bubblewrap reports a death by signal as a shell does, as 128 and its number. A program may end with that exit code
    too, so that there it is only a possibility.
    """
    number = -returncode if returncode < 0 else returncode - 128
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}" if returncode < 0 else None


class NotStarted(UserError):
    """The sandbox failed before the first instruction of a script, which is no fault of the submission's.

    Attributes:
        problem: why, in words.
    """

    def __init__(self, script: str, problem: str) -> None:
        self.problem = problem or "no message"
        super().__init__(
            f"this machine did not start {script} in its sandbox ({self.problem}): the run is not recorded; "
            "mend the cause, then go on with judge --resume"
        )


def run(
    step: Step,
    limits: Limits,
    kind: Kind,
    log: Path,
    beside: Callable[[Guarded], AbstractContextManager[object]] | None = None,
) -> Outcome:
    """Runs a step to its end, whichever that is.

    Args:
        log: file for what the step prints, complete up to the moment of a kill.
        beside: what goes on for as long as the step runs, given its process. Default: nothing.

    Raises:
        NotStarted: the sandbox failed before the first instruction of the script.
    """
    events: list[dict[str, Any]] = []
    problem = None
    with ExitStack() as stack:
        group = _group(limits)
        if group:
            stack.enter_context(group)
        arguments = command(step, limits, kind, group)
        printed = stack.enter_context(PrintedLog(log, limits.log))
        try:
            job = Guarded(
                group.joined(arguments) if group else arguments,
                limits.seconds,
                grace=0,
                env=environment(step, limits, kind),
                cwd=step.scratch,
                output=printed.output,
                on_event=events.append,
            )
        except OSError as error:
            problem = str(error)
        else:
            printed.output.close()  # the step has its own: the pipe ends when the step does
            others = beside(job) if beside else nullcontext()
            with job, Watch(job, step.scratch, printed, limits, group, lambda: bool(events)) as watch, others:
                exit_status = job.wait()
            watch.check_group()
            problem = None if events else watch.limit or ""
    if problem is not None:
        problem = problem or last_line(log)
        log.unlink()
        raise NotStarted(step.script, problem)
    watch.check_files()  # for what it wrote in its last moments
    by_kernel = (*(group.bounds if group else ()), *(("disk",) if has_own_size(step.scratch) else ()))
    return _outcome(exit_status, watch, log, limits, by_kernel)


def _group(limits: Limits) -> Group | None:
    try:
        return new_group(limits)
    except NoControlGroups:
        return None


def _outcome(exit_status: ExitStatus, watch: Watch, log: Path, limits: Limits, by_kernel: tuple[str, ...]) -> Outcome:
    make_plain(log)
    last_words = last_line(log)
    returncode = exit_status.returncode
    reason: str = exit_status.reason
    limit = watch.limit
    if limit is None and reason == "exited" and returncode != 0:
        # not the last line alone: many processes that fail together print into one another's lines
        if _signal(returncode) == "SIGXFSZ" or last_line_with(("File too large",), log):
            limit = f"wrote a file larger than the limit of {in_bytes(limits.disk)}"
        elif "disk" in by_kernel and (line := last_line_with(DISK_WORDS, log)):
            limit = f"wrote more than the limit of {in_bytes(limits.disk)} to disk: {quoted(line)}"
        elif line := last_line_with(PROCESS_WORDS, log):
            limit = f"ran more than the limit of {limits.processes} processes and threads: {quoted(line)}"
        elif line := last_line_with(MEMORY_WORDS, log):
            limit = f"asked for more than the limit of {in_bytes(limits.memory)} of memory: {quoted(line)}"
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
        by_kernel,
    )
