"""Several networks in one budget: a process for each, and one weights file of all.

The process that leads them computes nothing itself. It starts the members, adds up what they report, and gathers their
weights into one file, again and again. A member that dies costs itself only.
"""

import contextlib
import json
import math
import os
import queue
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from speedtrain.config import Config
from speedtrain.files import write_atomic
from speedtrain.starting_point import WEIGHTS
from speedtrain.training.job import Job
from speedtrain.training.metrics import MetricsWriter
from speedtrain.training.process import worker_command, worker_environment
from timing import Budget, ExitStatus, Guarded, Ledger, send_event

FOLDER = "members"
"""In a run's directory: a folder for each member, called 1, 2, …, like that of a run."""
GATHER_SECONDS = 0.5  # at the end, to gather the weights and exit
GATHER_EVERY = 5.0  # seconds at least, and
GATHER_SHARE = 0.002  # of the time at most
REPORT_EVERY = 0.5  # seconds
WAIT = 0.1  # seconds between two looks at the time
GRACE = 15.0  # seconds that a member may take to end early
LEFT_BEHIND = 0.8
"""A member with less than this share of the furthest member's progress is left out: its learning rate is still high."""


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

    def failure(self) -> str | None:
        """Why it did not end regularly; None where it did, or was asked to end."""
        assert self.ended is not None
        if self.done is not None or self.ended.reason in ("interrupted", "abandoned"):
            return None
        if self.ended.reason == "deadline":
            return "it was killed at the deadline"
        if self.ended.returncode < 0:
            return f"it was killed by {signal.Signals(-self.ended.returncode).name}"
        if self.ended.returncode == 0:  # it was asked to plan only, or took no step
            return None
        lines = (self.run / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self.ended.returncode}"


def train_members(
    configs: Sequence[Config],
    images: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    run: Path,
    *,
    ledger: Ledger,
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
        replay: the directory of a run whose members' logs are followed instead of the clock; default: by the clock.

    Returns:
        How many images all members saw together, repetitions included.

    Raises:
        RuntimeError: all members failed.
    """
    facts = dict(facts or {})
    unlimited = replay is not None or max_steps is not None or plan_only
    budget = Budget(math.inf if unlimited else configs[0].budget, ledger.started)
    leader = _Leader(run, weights or run / WEIGHTS, {**facts, "classes": list(classes)}, ledger, budget)
    signal.signal(signal.SIGTERM, lambda *_: leader.interrupt())
    with tempfile.TemporaryDirectory(prefix="speedtrain-", ignore_cleanup_errors=True) as scratch:
        with ledger.phase("data"):
            logs = {} if replay is None else recorded_members(replay)
            jobs = {}
            for number, config in enumerate(configs, 1):
                if replay is not None and number not in logs:  # it was left out of the weights
                    continue
                path, steps = logs.get(number, (None, 0))
                jobs[number] = Job(
                    config=config,
                    classes=tuple(classes),
                    data_sha256=str(facts.get("data_sha256", "")),
                    run=run / FOLDER / str(number),
                    replay=path,
                    replay_steps=steps,
                    max_steps=max_steps,
                    plan_only=plan_only,
                )
            _write_jobs(jobs, Path(scratch), images, labels, targets)
        with ledger.phase("train"), contextlib.ExitStack() as stack:
            leader.start(jobs, Path(scratch), stack)
            leader.follow()
    return leader.conclude(plan_only)


def _write_jobs(
    jobs: Mapping[int, Job], scratch: Path, images: np.ndarray, labels: np.ndarray, targets: np.ndarray | None
) -> None:
    """A folder per job, with its number as name; the images lie on the disk once."""
    first = min(jobs)
    for number, job in jobs.items():
        folder = scratch / str(number)
        folder.mkdir()
        if number == first:
            job.write(folder, images, labels, targets)
            continue
        for file in (scratch / str(first)).iterdir():
            if file.suffix == ".npy":
                try:
                    os.link(file, folder / file.name)
                except OSError:  # a file system without links
                    shutil.copyfile(file, folder / file.name)
        job.write_settings(folder)


class _Leader:
    """Starts the members, listens to them, and gathers their weights."""

    def __init__(self, run: Path, weights: Path, facts: Mapping[str, Any], ledger: Ledger, budget: Budget) -> None:
        self.members: list[Member] = []
        self.weights, self.facts, self.ledger, self.budget = weights, facts, ledger, budget
        self.stopped = False
        self._run, self._lock = run, threading.Lock()
        self._metrics = MetricsWriter(run / "metrics.csv")
        self._disk_full = False

    def interrupt(self) -> None:
        """Asks all members to end early."""
        self.stopped = True
        for member in self.members:
            member.process.interrupt()

    def start(self, jobs: Mapping[int, Job], scratch: Path, stack: contextlib.ExitStack) -> None:
        """Starts a process for each job."""
        for place, (number, job) in enumerate(jobs.items()):
            job.run.mkdir(parents=True, exist_ok=True)
            left = self.budget.remaining()
            seconds = left if math.isinf(left) else max(0.1, left - GATHER_SECONDS)
            if not math.isinf(left):  # what is left now; it counts from the start of the member's process
                job = replace(job, config=replace(job.config, budget=seconds))
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
            member.ended = member.process.wait()
            ended.put(member)

        for member in self.members:
            threading.Thread(target=wait, args=[member], daemon=True).start()
        next_report, next_gather = time.monotonic() + REPORT_EVERY, time.monotonic() + GATHER_EVERY
        running = len(self.members)
        while running:
            with contextlib.suppress(queue.Empty):
                member = ended.get(timeout=WAIT)
                running -= 1
                if (failure := member.failure()) is not None:
                    self._say(f"member {member.number} ended early: {failure}")
            now = time.monotonic()
            if now >= next_report:
                next_report = now + REPORT_EVERY
                self.report()
            if running and now >= next_gather:
                self.gather()
                taken = time.monotonic() - now
                next_gather = time.monotonic() + max(GATHER_EVERY, taken / GATHER_SHARE)

    def conclude(self, plan_only: bool) -> int:
        """After the last member: the last gathering and the last report; returns how many images were seen."""
        if plan_only:
            return 0
        self.report()
        self.gather()
        failures = [failure for member in self.members if (failure := member.failure()) is not None]
        if len(failures) == len(self.members):
            raise RuntimeError(f"no member was trained to its end; number 1: {failures[0]}")
        stopped = self.stopped or any((member.done or {}).get("stopped") for member in self.members)
        state = self._state()
        send_event({"event": "done", "step": state["step"], "stopped": stopped, "phases": self.ledger.phases()})
        return int(state["images_seen"])

    def report(self) -> None:
        """Tells how far the members are, together: sums of what they do, and means of where they are."""
        rows = [member.last for member in self.members if member.last]
        if not rows:
            return
        row = {
            "seconds": round(self.budget.elapsed(), 3),
            "progress": _mean(rows, "progress"),
            "step": sum(each["step"] for each in rows),
            "epoch": round(_mean(rows, "epoch"), 3),
            "loss": _mean(rows, "loss"),
            "lr": _mean(rows, "lr"),
            "images_per_second": round(sum(each["images_per_second"] for each in rows), 1),
            "side": max(each["side"] for each in rows),
        }
        self._metrics.add(row)
        send_event({"event": "step", **row, **self._state()})

    def gather(self) -> None:
        """Writes the weights of all members, as saved last, to one file.

        A member that is far behind the others, such as one that died, is left out.
        """
        with self.ledger.phase("save"):
            try:
                self._metrics.flush()
                parts = [read_member(member.run / WEIGHTS, member.number) for member in self.members]
                saved = [part for part in parts if part is not None]
                furthest = max((facts["progress"] for facts, _ in saved), default=0.0)
                taken = [part for part in saved if part[0]["progress"] >= LEFT_BEHIND * furthest]
                if taken:
                    write_atomic(self.weights, self._one_file(taken))
                self._disk_full = False
            except OSError as error:
                if not self._disk_full:
                    self._say(f"could not gather the members' weights ({error})")
                    send_event({"event": "save_failed", "error": str(error)[:600]})
                self._disk_full = True

    def _one_file(self, parts: Sequence[tuple[dict[str, Any], dict[str, np.ndarray]]]) -> bytes:
        from safetensors.numpy import save

        together = {
            **{key: sum(facts[key] for facts, _ in parts) for key in ("step", "images_seen", "threads", "rollbacks")},
            "progress": _mean([facts for facts, _ in parts], "progress"),
            "batch_size": parts[0][0]["batch_size"],
            "phases": self.ledger.phases(),
        }
        own = ("number", "network", "step", "images_seen", "threads", "rollbacks", "progress", "batch_size", "phases")
        header: dict[str, Any] = {
            **self.facts,
            **together,
            "images": parts[0][0]["images"],
            "members": [{key: facts[key] for key in own} for facts, _ in parts],
        }
        several = len(parts) > 1
        tensors = {
            f"members.{place}.{name}" if several else name: tensor
            for place, (_, state) in enumerate(parts)
            for name, tensor in state.items()
        }
        return save(tensors, {name: json.dumps(value) for name, value in header.items()})

    def _state(self) -> dict[str, Any]:
        """As `CheckpointCallback` reports it, of all members together."""
        rows = [member.last for member in self.members if member.last]
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
                self._send(event)

    def _say(self, line: str) -> None:
        print(line, flush=True)
        self._send({"event": "message", "text": line[:600]})

    def _send(self, event: dict[str, Any]) -> None:
        with self._lock:
            send_event(event)


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def read_member(path: Path, number: int) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """A member's saved facts, with its number, and its tensors; None where nothing is saved yet. Needs no torch."""
    from safetensors import safe_open

    if not path.exists():
        return None
    with safe_open(path, framework="numpy") as file:
        facts = {name: json.loads(value) for name, value in file.metadata().items() if name != "format"}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    return {**facts, "number": number}, tensors


def recorded_members(run: Path) -> dict[int, tuple[Path, int]]:
    """Of a run that is to be replayed: the number of a member → its log of the clock, and how many steps were saved."""
    from safetensors import safe_open

    with safe_open(run / WEIGHTS, framework="numpy") as file:
        members = json.loads(file.metadata()["members"])
    return {
        member["number"]: (run / FOLDER / str(member["number"]) / "clock.csv", member["step"]) for member in members
    }
