"""Launches the process that trains, and listens to it."""

import contextlib
import math
import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from speedtrain.chosen_tricks import with_planned
from speedtrain.config import Config
from speedtrain.data import Images
from speedtrain.data.mapped import folder_for
from speedtrain.errors import UserError
from speedtrain.member_configs import PLANNED, member_configs, with_shares
from speedtrain.model.weights import load_facts
from speedtrain.run.estimated_noise import estimate_noise
from speedtrain.run.interruption import GRACE, Interruption
from speedtrain.run.progress import Display
from speedtrain.run.run_directory import may_fail, write_config
from speedtrain.run.starting_weights import StartingWeights
from speedtrain.starting_point import WEIGHTS
from speedtrain.training.job import Job
from speedtrain.training.member_weights import gather
from speedtrain.training.one_or_several import average_gain, repeated
from speedtrain.training.process import last_line, worker_command, worker_environment
from speedtrain.training.step_log import Recorded
from timing import ExitStatus, Guarded

MIN_PROBE_SECONDS = 120.0
"""Seconds that a probe may take at least, whatever the budget is."""


class WorkerProcess:
    """The process that trains, and what it has sent so far.

    Args:
        config: of the run; the plan replaces what is `auto` in it.
        train: the training images.
        run: directory of the run.
        display: shows progress and messages.
        replay: what to follow instead of the clock; None: the clock.
        start: the weights to start from; None: random ones.
        on_step: is called with each event about how far training is. Default: none.
        members: the configurations of several networks, trained in place of one by `config`. Default: none.
        or_members: likewise, where the planner predicts a higher accuracy of them. Default: none.

    In the configurations, noise that is to be estimated from the annotators becomes a matrix.

    Attributes:
        plan: as in `result.json`; before the plan arrives, what the configuration says.
        planned: whether the plan has arrived, of members that of each.
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
        replay: Recorded | None = None,
        start: StartingWeights | None = None,
        on_step: Callable[[dict[str, Any]], None] | None = None,
        members: Sequence[Config] = (),
        or_members: Sequence[Config] = (),
    ) -> None:
        self.start, self.on_step = start, on_step
        self.members, self._or_members = tuple(members), tuple(or_members)
        for network in (config, *members, *or_members):
            estimate_noise(network, train, keep=replay is not None)
        self.config, self.train, self.run, self.display, self.replay = config, train, run, display, replay
        keys = ("model", "side", "width", "batch_size", "precision")
        self.plan: dict[str, Any] = {key: getattr(config, key) for key in keys}
        self._plans: dict[int, dict[str, Any]] = {}
        self._plan_of_one: dict[str, Any] | None = None  # which the members are better than, as predicted
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
        seconds = self.config.budget if self.replay is None else math.inf
        if max_steps is not None or plan_only:
            seconds = max(MIN_PROBE_SECONDS, 10 * seconds)
        job = Job(
            config=self.config,
            classes=self.train.classes,
            data_sha256=self.train.sha256(),
            run=self.run,
            replay=self.replay,
            max_steps=max_steps,
            plan_only=plan_only,
            started_from=None if self.start is None else self.start.described,
            members=self.members,
            or_members=self._or_members,
        )
        images = self.train.images
        with (
            tempfile.TemporaryDirectory(
                prefix="speedtrain-", dir=folder_for(images), ignore_cleanup_errors=True
            ) as folder,
            open(self.run / "log.txt", "ab") as log,
        ):
            start = None if self.start is None else self.start.file
            job.write(Path(folder), images, self.train.labels, self.train.targets, start)
            command, environment = worker_command(Path(folder)), worker_environment(self.config)
            with (
                Guarded(command, seconds, grace=GRACE, env=environment, output=log, on_event=self._on_event) as process,
                self.display.running(self._expected_seconds(), process.started, self.replay and self.replay.steps),
            ):
                interruption.watch(process)
                try:
                    return process.wait()
                finally:
                    interruption.watch(None)
                    if self.members and self.done is None and not plan_only:
                        self._gather_again()

    def read_last_save(self) -> None:
        """Takes from the weights file how far training was: events are lost while this process is stopped."""
        with contextlib.suppress(UserError):
            facts: dict[str, Any] = load_facts(self.run / WEIGHTS)
            # of members, what a dead one reported is in the events and not in the file
            if self.members or facts["images_seen"] > self.last.get("images_seen", 0):
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
        return last_line(self.run / "log.txt") or "the training process failed"

    def _expected_seconds(self) -> float:
        """The budget; of a replay, which has none, the time that the replayed run took."""
        if self.replay is None:
            return self.config.budget
        phases: Any = load_facts(self.replay.log.with_name("weights.safetensors")).get("phases", {})
        return sum(phases.values())

    def _on_event(self, event: dict[str, Any]) -> None:
        match event.pop("event"):
            case "plan":
                self._take_plan(event["plan"], event.get("member", 1))
            case "members":
                self._take_members(event["plan"], event["number"])
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

    @property
    def planned(self) -> bool:
        return len(self._plans) == max(1, len(self.members))

    def _take_members(self, plan_of_one: dict[str, Any], number: int) -> None:
        """So many networks are trained in place of one, for which this is the plan."""
        assert self.config.or_members is not None
        self.members = with_shares(repeated(self._or_members, number), self.config)
        self.config.members = repeated(self.config.or_members["networks"], number)
        self._plan_of_one = plan_of_one
        for reason in plan_of_one["reasons"]:
            self.display.info(reason)

    def _take_plan(self, plan: dict[str, Any], number: int) -> None:
        self._plans[number] = plan
        decided = {key: plan[key] for key in ("width", "batch_size", "precision") if plan[key] is not None}
        if self.members:
            if plan["ranks"] is not None:
                decided["low_rank.ranks"] = plan["ranks"]
            if plan["added"]:  # with the values of in_long_runs
                decided["with"] = list(plan["added"])
            members = list(self.config.members)
            members[number - 1] = {**members[number - 1], PLANNED: decided}
            self.config.members = members
            self.plan = plan_of_members([self._plans[each] for each in sorted(self._plans)])
            if self._plan_of_one is not None:
                self.plan |= {key: self._plan_of_one[key] for key in ("reasons", "alternatives", "at_once")}
                self.plan["accuracy"] = self._accuracy_of_average()
        else:
            self.plan = plan
            for key, value in decided.items():
                setattr(self.config, key, value)
            self.config.tricks = with_planned(self.config.tricks, plan["ranks"], plan["added"])
        with may_fail(self.display):
            write_config(self.run, self.config)
        for reason in plan["reasons"]:
            self.display.info(f"member {number}: {reason}" if self.members else reason)

    def _accuracy_of_average(self) -> float | None:
        """Of members that the planner took, the mean of what is predicted for each, and the gain of their average."""
        alone = [each["accuracy"] for each in self.plan["members"]]
        if None in alone or self.config.or_members is None:
            return None
        accuracy: float = sum(alone) / len(alone) + average_gain(self.config, len(alone))
        return round(min(1.0, accuracy), 4)

    def _gather_again(self) -> None:
        """Where the process that leads members could not gather their weights at its end, takes what they saved."""
        facts = {"data_sha256": self.train.sha256(), "started_from": None, "classes": list(self.train.classes)}
        with contextlib.suppress(OSError, ValueError):
            gather(self.run, range(1, len(self.members) + 1), self.run / WEIGHTS, facts, self.last.get("phases", {}))


def plan_of_members(plans: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The plans of several networks as one, in the form of `Plan`, with those of each as `members`."""
    first = plans[0]
    return {
        **{key: first[key] for key in ("model", "side", "precision", "resolutions")},
        "width": None,
        "batch_size": first["batch_size"],
        "images_per_second": round(sum(plan["images_per_second"] for plan in plans), 1),
        "seconds_left": round(sum(plan["seconds_left"] for plan in plans) / len(plans), 1),
        "epochs": round(sum(plan["epochs"] for plan in plans) / len(plans), 1),
        "accuracy": None,
        "reasons": [],
        "alternatives": [],
        "at_once": {},
        "members": list(plans),
    }


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
    or_members: Sequence[Config] = (),
) -> Probe:
    """Launches a process that only plans, or takes a few steps. Arguments as for `WorkerProcess` and its `work`."""
    with tempfile.TemporaryDirectory(prefix="speedtrain-", ignore_cleanup_errors=True) as folder:
        config = replace(config)
        members, quiet = member_configs(config), Display(quiet=True)
        worker = WorkerProcess(config, train, Path(folder), quiet, members=members, or_members=or_members)
        ended = worker.work(interruption, max_steps=max_steps, plan_only=plan_only)
        return Probe(worker, ended, worker.last_error(ended))  # read now: the log goes with the directory
