"""Launches the process that trains, and listens to it."""

import contextlib
import math
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from speedtrain.config import Config
from speedtrain.data import Images
from speedtrain.errors import UserError
from speedtrain.model.weights import load_facts
from speedtrain.run.directory import may_fail, write_config
from speedtrain.run.interruption import GRACE, Interruption
from speedtrain.run.progress import Display
from speedtrain.run.starting_weights import StartingWeights
from speedtrain.training.job import Job
from speedtrain.training.worker import MALLOC_SETTINGS
from timing import ExitStatus, Guarded

MIN_PROBE_SECONDS = 120.0
"""Seconds that a probe may take at least, whatever the budget is."""


def python_environment() -> dict[str, str]:
    """This process's environment, in which a child finds `speedtrain` where this process found it."""
    here = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))}


def worker_environment(config: Config) -> dict[str, str]:
    """The environment of a process that trains with the configuration's number of threads."""
    return {
        **python_environment(),
        "OMP_NUM_THREADS": str(config.threads),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS repeats its results bit for bit only with this
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", MALLOC_SETTINGS),
    }


class WorkerProcess:
    """The process that trains, and what it has sent so far.

    Args:
        config: of the run; the plan replaces what is `auto` in it.
        train: the training images.
        run: directory of the run.
        display: shows progress and messages.
        replay: a `clock.csv` to follow instead of the clock, and how many steps of it; None: follow the clock.
        start: the weights to start from; None: random ones.
        on_step: is called with each event about how far training is. Default: none.

    Attributes:
        plan: as in `result.json`; before the plan arrives, what the configuration says.
        planned: whether the plan has arrived.
        last: the last event about how far training is.
        done: the event of a regular end; None so far.
        messages: for the user, as sent.
        save_error: why nothing could be saved; None so far.
    """

    def __init__(
        self,
        config: Config,
        train: Images,
        run: Path,
        display: Display,
        replay: tuple[Path, int] | None = None,
        start: StartingWeights | None = None,
        on_step: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.start, self.on_step = start, on_step
        self.config, self.train, self.run, self.display, self.replay = config, train, run, display, replay
        keys = ("model", "side", "width", "batch_size", "precision")
        self.plan: dict[str, Any] = {key: getattr(config, key) for key in keys}
        self.planned = False
        self.last: dict[str, Any] = {}
        self.done: dict[str, Any] | None = None
        self.messages: list[str] = []
        self.save_error: str | None = None

    def work(self, interruption: Interruption, *, max_steps: int | None = None, plan_only: bool = False) -> ExitStatus:
        """Launches the process and waits for its end.

        Args:
            interruption: what may end it early.
            max_steps, plan_only: as in `Job`.
        """
        log_file, replay_steps = self.replay or (None, 0)
        seconds = self.config.budget if log_file is None else math.inf
        if max_steps is not None or plan_only:
            seconds = max(MIN_PROBE_SECONDS, 10 * seconds)
        job = Job(
            config=self.config,
            classes=self.train.classes,
            data_sha256=self.train.sha256(),
            run=self.run,
            replay=log_file,
            replay_steps=replay_steps,
            max_steps=max_steps,
            plan_only=plan_only,
            started_from=None if self.start is None else self.start.described,
        )
        with (
            tempfile.TemporaryDirectory(prefix="speedtrain-", ignore_cleanup_errors=True) as folder,
            open(self.run / "log.txt", "ab") as log,
        ):
            start = None if self.start is None else self.start.file
            job.write(Path(folder), self.train.images, self.train.labels, self.train.targets, start)
            # -P: a file called timing.py in the user's current folder is not ours
            command = [sys.executable, "-P", "-m", "speedtrain.training.worker", folder]
            environment = worker_environment(self.config)
            with (
                Guarded(command, seconds, grace=GRACE, env=environment, output=log, on_event=self._on_event) as process,
                self.display.running(self._expected_seconds(), process.started, self.replay and self.replay[1]),
            ):
                interruption.watch(process)
                try:
                    return process.wait()
                finally:
                    interruption.watch(None)

    def read_last_save(self) -> None:
        """Takes from the weights file how far training was: events are lost while this process is stopped."""
        with contextlib.suppress(UserError):
            facts: dict[str, Any] = load_facts(self.run / "weights.safetensors")
            if facts["images_seen"] > self.last.get("images_seen", 0):
                self.last = facts

    def failure(self, ended: ExitStatus) -> str | None:
        """Why the process failed, and where to read more; None where it did not fail by itself."""
        error = self.last_error(ended)
        return f"{error} (see {self.run / 'log.txt'})" if error and ended.returncode > 0 else error

    def last_error(self, ended: ExitStatus) -> str | None:
        """The signal that ended the process, or the last line of its log; None where it did not fail by itself."""
        if ended.reason != "exited" or ended.returncode == 0:
            return None
        if ended.returncode < 0:
            return f"the training process was killed by {signal.Signals(-ended.returncode).name}"
        lines = (self.run / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "the training process failed"

    def _expected_seconds(self) -> float:
        """The budget; of a replay, which has none, the time that the replayed run took."""
        if self.replay is None:
            return self.config.budget
        phases: Any = load_facts(self.replay[0].with_name("weights.safetensors")).get("phases", {})
        return sum(phases.values())

    def _on_event(self, event: dict[str, Any]) -> None:
        match event.pop("event"):
            case "plan":
                self._take_plan(event["plan"])
            case "phase":
                self.last = event
            case "step":
                self.last = event
                self.display.step(event)
                if self.on_step:
                    self.on_step(event)
            case "done":
                self.done = event
            case "save_failed":
                self.save_error = event["error"]
            case "message":
                self.messages.append(event["text"])
                self.display.warn(event["text"])

    def _take_plan(self, plan: dict[str, Any]) -> None:
        self.plan, self.planned = plan, True
        for key in ("width", "batch_size", "precision"):
            if plan[key] is not None:
                setattr(self.config, key, plan[key])
        with may_fail(self.display):
            write_config(self.run, self.config)
        for reason in plan["reasons"]:
            self.display.info(reason)


@dataclass(frozen=True)
class Probe:
    """A part of a run, done quietly in a directory of its own that is deleted afterwards.

    Attributes:
        worker: the process.
        ended: its exit status.
        error: why it failed; None where it did not.
    """

    worker: WorkerProcess
    ended: ExitStatus
    error: str | None


def run_probe(
    config: Config,
    train: Images,
    interruption: Interruption,
    *,
    max_steps: int | None = None,
    plan_only: bool = False,
) -> Probe:
    """Launches a process that only plans, or takes a few steps. Arguments as for `WorkerProcess.work`."""
    with tempfile.TemporaryDirectory(prefix="speedtrain-", ignore_cleanup_errors=True) as folder:
        worker = WorkerProcess(replace(config), train, Path(folder), Display(quiet=True))
        ended = worker.work(interruption, max_steps=max_steps, plan_only=plan_only)
        return Probe(worker, ended, worker.last_error(ended))  # read now: the log goes with the directory
