"""Several networks in one budget: a process for each, and one weights file of all.

The process that leads them computes nothing itself. It starts the members, adds up what they report, and gathers their
weights into one file, again and again. A member that dies costs itself only.
"""

import contextlib
import math
import os
import queue
import shutil
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from speedtrain.config import Config
from speedtrain.starting_point import WEIGHTS
from speedtrain.training.job import IMAGES, Job
from speedtrain.training.member_weights import FOLDER, gather, recorded_members
from speedtrain.training.metrics import MetricsWriter
from speedtrain.training.process import last_line, worker_command, worker_environment
from timing import Budget, ExitStatus, Guarded, Ledger, send_event

GATHER_SECONDS = 0.4  # at the end, to gather the weights and exit, and
GATHER_SECONDS_EACH = 0.1  # for each member
GATHER_EVERY = 5.0  # seconds at least, and
GATHER_SHARE = 0.002  # of the time at most
REPORT_EVERY = 0.5  # seconds
WAIT = 0.1  # seconds between two looks at the time
GRACE = 15.0  # seconds that a member may take to end early
DEADLINE = "killed at the deadline"
TEXT = 300
"""Characters of a message that are passed on: an event has 4,096 bytes, a character up to 12 of them."""


@dataclass
class Member:
    """One member's process, and what it has sent so far.

    Attributes:
        number: from 1.
        process: under its guard.
        run: its directory.
        last: the last event about how far it is.
        done: the event of a regular end; None so far.
        ended: its exit status; None while it runs.
    """

    number: int
    process: Guarded
    run: Path
    last: dict[str, Any] = field(default_factory=dict)
    done: dict[str, Any] | None = None
    ended: ExitStatus | None = None

    @property
    def died(self) -> bool:
        """Whether its process has ended without saying so."""
        return self.ended is not None and self.done is None

    def failure(self) -> str | None:
        """Why it did not end regularly; None where it did, or was asked to end, or had nothing to do."""
        assert self.ended is not None
        if self.done is not None or self.ended.reason in ("interrupted", "abandoned"):
            return None
        if self.ended.reason == "deadline":
            return DEADLINE
        if self.ended.returncode < 0:
            return f"killed by {signal.Signals(-self.ended.returncode).name}"
        if self.ended.returncode == 0:
            return None
        return last_line(self.run / "log.txt") or f"exit status {self.ended.returncode}"


def train_members(
    configs: Sequence[Config],
    images: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    run: Path,
    *,
    ledger: Ledger,
    scratch: Path,
    replay: Path | None = None,
    max_steps: int | None = None,
    plan_only: bool = False,
    weights: Path | None = None,
    facts: Mapping[str, Any] | None = None,
    targets: np.ndarray | None = None,
) -> int:
    """Trains a network by each configuration, all at once, and saves them to one file.

    Arguments as for `worker.train`, but

    Args:
        configs: one per member.
        scratch: a folder for the members' jobs, made where it is not there; whoever names it deletes it. If it holds
            a job with these images, its files are handed on.
        replay: the directory of a run whose members' logs are followed instead of the clock; default: by the clock.

    Returns:
        How many images all members saw together, repetitions included.

    Raises:
        RuntimeError: all members failed, or one of them while planning.
    """
    facts = {**(facts or {}), "classes": list(classes)}
    unlimited = replay is not None or max_steps is not None or plan_only
    budget = Budget(math.inf if unlimited else configs[0].budget, ledger.started)
    leader = _Leader(run, weights or run / WEIGHTS, facts, ledger, budget)
    signal.signal(signal.SIGTERM, lambda *_: leader.interrupt())
    with ledger.phase("data"):
        logs = {} if replay is None else recorded_members(replay)
        jobs = {}
        for number, config in enumerate(configs, 1):
            if replay is not None and number not in logs:  # it was left out of the weights
                continue
            jobs[number] = Job(
                config=config,
                classes=tuple(classes),
                data_sha256=str(facts.get("data_sha256", "")),
                run=run / FOLDER / str(number),
                replay=logs.get(number),
                max_steps=max_steps,
                plan_only=plan_only,
            )
        _write_jobs(jobs, scratch, images, labels, targets)
    with ledger.phase("train"), contextlib.ExitStack() as stack:
        leader.start(jobs, scratch, stack)
        leader.follow()
    return leader.conclude(plan_only)


def _write_jobs(
    jobs: Mapping[int, Job], scratch: Path, images: np.ndarray, labels: np.ndarray, targets: np.ndarray | None
) -> None:
    """A folder per job, with its number as name; the images lie on the disk once. Settings follow, with a deadline."""
    scratch.mkdir(0o700, parents=True, exist_ok=True)  # the images are nobody else's business
    if not (scratch / IMAGES).exists():
        jobs[min(jobs)].write(scratch, images, labels, targets)
    files = list(scratch.glob("*.npy"))
    for number in jobs:
        folder = scratch / str(number)
        folder.mkdir()
        for file in files:
            try:
                os.link(file, folder / file.name)
            except OSError:  # a file system without links
                shutil.copyfile(file, folder / file.name)
    for file in files:
        file.unlink()


class _Leader:
    """Starts the members, listens to them, and gathers their weights."""

    def __init__(self, run: Path, weights: Path, facts: Mapping[str, Any], ledger: Ledger, budget: Budget) -> None:
        self.members: list[Member] = []
        self.weights, self.facts, self.ledger, self.budget = weights, facts, ledger, budget
        self.stopped = False
        self._run, self._lock = run, threading.Lock()
        self._metrics = MetricsWriter(run / "metrics.csv")
        self._disk_full = False
        self._speed = 0.0

    def interrupt(self) -> None:
        """Asks all members to end early."""
        self.stopped = True
        for member in self.members:
            if member.ended is None:
                member.process.interrupt()

    def start(self, jobs: Mapping[int, Job], scratch: Path, stack: contextlib.ExitStack) -> None:
        """Starts a process for each job."""
        for place, (number, job) in enumerate(jobs.items()):
            job.run.mkdir(parents=True, exist_ok=True)
            seconds = self.budget.remaining() - GATHER_SECONDS - GATHER_SECONDS_EACH * len(jobs)
            seconds = max(0.1, seconds)
            if not math.isinf(seconds):
                job = replace(job, ends_at=time.monotonic() + seconds)
            job.write_settings(scratch / str(number))
            with open(job.run / "log.txt", "ab") as log:
                process = Guarded(
                    worker_command(scratch / str(number)),
                    seconds,
                    grace=GRACE,
                    env=worker_environment(job.config),
                    output=log,
                    on_event=partial(self._hear, place),
                )
            stack.enter_context(process)
            self.members.append(Member(number, process, job.run))
        if self.stopped:
            self.interrupt()

    def follow(self) -> None:
        """Until all members have ended: reports, and gathers."""
        ended: queue.Queue[Member] = queue.Queue()

        def wait(member: Member) -> None:
            try:
                member.ended = member.process.wait()
            finally:  # whatever happens here, nobody waits for ever
                ended.put(member)

        for member in self.members:
            threading.Thread(target=wait, args=[member], daemon=True).start()
        next_report, next_gather = time.monotonic() + REPORT_EVERY, time.monotonic() + GATHER_EVERY
        running = len(self.members)
        while running:
            with contextlib.suppress(queue.Empty):
                member = ended.get(timeout=WAIT)
                running -= 1
                member.ended = member.ended or ExitStatus("abandoned", -signal.SIGKILL, self.budget.elapsed())
                if (failure := member.failure()) is not None:
                    self._say(f"member {member.number}: {failure}")
            now = time.monotonic()
            if not self.weights.exists() and all((m.run / WEIGHTS).exists() for m in self.members):
                next_gather = now  # the first time, as soon as there is something
            if now >= next_report:
                next_report = now + REPORT_EVERY
                self.report()
            if running and now >= next_gather:
                self.gather()
                taken = time.monotonic() - now
                next_gather = time.monotonic() + max(GATHER_EVERY, taken / GATHER_SHARE)

    def conclude(self, plan_only: bool) -> int:
        """After the last member: the last gathering and the last report; returns how many images were seen."""
        failures = {m.number: failure for m in self.members if (failure := m.failure()) is not None}
        if plan_only:
            for number, failure in failures.items():
                raise RuntimeError(f"member {number}: {failure}")
            return 0
        self.report()
        left_out = self.gather()
        for number in left_out if len(left_out) < len(self.members) else ():
            self._say(f"member {number} is left out: it ended far before the others")
        if len(failures) == len(self.members):
            for number, failure in failures.items():
                if failure != DEADLINE:
                    raise RuntimeError(f"no member was trained to its end; member {number}: {failure}")
            return 0  # nobody had the time to end; what they saved is gathered
        stopped = self.stopped or any((member.done or {}).get("stopped") for member in self.members)
        state = self._state()
        ends = [member.done for member in self.members if member.done is not None]
        all_epochs = bool(ends) and all(end.get("all_epochs") for end in ends)
        done = {"event": "done", "step": state["step"], "stopped": stopped, "all_epochs": all_epochs}
        self._send({**done, "phases": self.ledger.phases()})
        return int(state["images_seen"])

    def report(self) -> None:
        """Tells how far the members are, together: sums of what they do, and means of where they are."""
        rows = self._reports()
        if not rows:
            return
        running = [member.last for member in self.members if member.last and member.ended is None]
        if running:
            self._speed = sum(each["images_per_second"] for each in running)
        row = {
            "seconds": round(self.budget.elapsed(), 3),
            "progress": _mean(rows, "progress"),
            "step": sum(each["step"] for each in rows),
            "epoch": round(_mean(rows, "epoch"), 3),
            "loss": _mean(rows, "loss"),
            "lr": _mean(rows, "lr"),
            "images_per_second": round(self._speed, 1),
            "side": max(each["side"] for each in rows),
        }
        self._metrics.add(row)
        self._send({"event": "step", **row, **self._state()})

    def gather(self) -> list[int]:
        """Writes what the members saved last to one file; returns the numbers of those left out."""
        with self.ledger.phase("save"):
            try:
                self._metrics.flush()
                numbers = [member.number for member in self.members]
                left_out = gather(self._run, numbers, self.weights, self.facts, self.ledger.phases())
                self._disk_full = False
                return left_out
            except OSError as error:
                if not self._disk_full:
                    self._say(f"could not gather the members' weights ({error})")
                    self._send({"event": "save_failed", "error": str(error)[:TEXT]})
                self._disk_full = True
                return []

    def _reports(self) -> list[dict[str, Any]]:
        """The last reports of the members that are alive or ended regularly; of all where there are none."""
        alive = [member.last for member in self.members if member.last and not member.died]
        return alive or [member.last for member in self.members if member.last]

    def _state(self) -> dict[str, Any]:
        """As `CheckpointCallback` reports it, of all members together."""
        rows = self._reports()
        return {
            **{key: sum(row[key] for row in rows) for key in ("step", "images_seen", "rollbacks")},
            "progress": _mean(rows, "progress") if rows else 0.0,
            "threads": round(sum(row["threads"] for row in rows), 2),
            "batch_size": rows[0]["batch_size"] if rows else None,
            "phases": self.ledger.phases(),
        }

    def _hear(self, place: int, event: dict[str, Any]) -> None:
        """Takes an event of a member, in the thread that waits for it."""
        member = self.members[place]
        match event["event"]:
            case "plan":
                self._send({**event, "member": member.number})
            case "step":
                member.last = event
            case "done":
                member.done = event
            case "message":
                self._say(f"member {member.number}: {event['text']}")
            case "save_failed":
                self._send({**event, "error": event["error"][:TEXT]})

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # the log is on the disk that may be full
            print(line, flush=True)
        self._send({"event": "message", "text": line[:TEXT]})

    def _send(self, event: dict[str, Any]) -> None:
        """From any thread, one at a time. A plan that is too long goes without what it was chosen from."""
        with self._lock:
            try:
                send_event(event)
            except ValueError:
                send_event({**event, "plan": {**event["plan"], "alternatives": [], "reasons": []}})


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)
