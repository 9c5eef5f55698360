"""One run of a submission: training in one sandbox, and predicting in others, with the weights of its end and with the
copies that were taken on the way.

Everything happens in one folder and on one machine; nothing here knows of other runs. So this is also what a node of a
cluster does.
"""

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speedtrain.judge import machine_speed, sandboxed_step, submission_files
from speedtrain.judge.archive import Submission
from speedtrain.judge.package_files import read_in
from speedtrain.judge.sandbox import Step
from speedtrain.judge.scratch import make_scratch
from speedtrain.judge.settings import Settings
from speedtrain.judge.weight_copies import Copier, Copy, instants


@dataclass(frozen=True)
class Task:
    """What is run.

    Attributes:
        submission: the submission.
        train: an .npz with the training images, readable by all users.
        test_images: uint8 [N, side, side, 3].
        num_classes: number of classes.
        settings: the rules of the judging.
        seed: value of the environment variable SEED.
        place: number of the place on its host, where several runs go on at the same time.
        package_files: files of the packages that submissions may use.
    """

    submission: Submission
    train: Path
    test_images: np.ndarray
    num_classes: int
    settings: Settings
    seed: int
    place: int = 0
    package_files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        facts: for the journal: `seed`, `training`, `testing`, `images_seen`, `failed`, `verdict`, and, where the score
            is over time, `copies` (`seconds` and `problem` of each) and `copies_left_out`.
        predictions: int64 [N] with the weights of the end; None if the run failed.
        copies: the same with each copy; None where a copy cannot be scored.
    """

    facts: dict[str, Any]
    predictions: np.ndarray | None
    copies: list[np.ndarray | None]


def run_attempt(task: Task, work: Path, log: Path, test_log: Path) -> Outcome:
    """Trains and predicts.

    Args:
        task: what is run.
        work: an empty folder, for this run alone; an absolute path.
        log: file for what training prints.
        test_log: file for what predicting prints.

    Raises:
        NotStarted: the sandbox failed before a script's first instruction.
    """
    return _Attempt(task, work, log, test_log).run()


@dataclass(frozen=True)
class Measured:
    """An attempt, and the machine around it.

    Attributes:
        outcome: what came of it.
        speeds: of the machine before and after it, GFLOP/s; None where any drift is allowed.
        waited: seconds until the machine was as fast as at the beginning, or was taken as it is.
        seconds: that it took, with everything but the waiting.
    """

    outcome: Outcome
    speeds: tuple[float | None, float | None]
    waited: float
    seconds: float


def measured_attempt(task: Task, work: Path, log: Path, test_log: Path, reference: float | None) -> Measured:
    """An attempt in a new folder, which is removed, between two measurements of the machine's speed.

    It begins when the machine is as fast as at the beginning, with the files of the packages in memory. How fast the
    machine is afterwards is recorded and earns nothing: a submission could slow it down on purpose.

    Args:
        task, work, log, test_log: as for `run_attempt`; whatever is in the folder is removed.
        reference: the speed at the beginning, GFLOP/s; None where any drift is allowed.

    Raises:
        NotStarted: the sandbox failed before a script's first instruction.
    """
    submission_files.clear(work)
    work.mkdir(mode=0o700)
    cpus, drift = task.settings.limits(1, task.place).cpus, task.settings.drift
    before, after, waited = None, None, 0.0
    if math.isfinite(drift):
        read_in([*task.package_files, str(task.train)])
        before, waited = machine_speed.recovered(cpus, reference, drift)
    started = time.monotonic()
    outcome = run_attempt(task, work, log, test_log)
    submission_files.clear(work)
    if math.isfinite(drift):
        after = machine_speed.measure(cpus)
    return Measured(outcome, (before, after), round(waited, 3), round(time.monotonic() - started, 3))


class _Attempt:
    def __init__(self, task: Task, work: Path, log: Path, test_log: Path) -> None:
        self._task, self._settings, self._work = task, task.settings, work
        self._log, self._test_log = log, test_log
        self._source = work / "submission"
        self._facts: dict[str, Any] = {"seed": task.seed, "training": None, "testing": None}
        self._copies: list[np.ndarray | None] = []

    def run(self) -> Outcome:
        self._task.submission.unpack(self._source)
        try:
            predictions, verdict = self._train_and_predict()
        except submission_files.BadOutput as error:
            return Outcome({**self._facts, "failed": True, "verdict": f"failed: {error}"}, None, self._copies)
        return Outcome({**self._facts, "failed": False, "verdict": verdict}, predictions, self._copies)

    def _train_and_predict(self) -> tuple[np.ndarray, str]:
        trained, copies = self._train(self._work / "training")
        self._facts["training"] = trained.as_dict()
        self._facts["images_seen"] = _images_seen(self._log)
        if trained.limit:
            raise submission_files.BadOutput(trained.limit)
        end, weights = self._work / "end", self._work / "weights"
        try:
            submission_files.take(self._work / "training", "weights", end, self._settings.disk)
            problem = None
        except submission_files.BadOutput as error:
            problem = f"{trained.in_words()}; {error}"
        submission_files.clear(self._work / "training")
        if self._settings.score.over_time:
            self._score_copies(copies)
        if problem:
            raise submission_files.BadOutput(problem)
        end.replace(weights)
        predicted, tested = self._predict(weights, self._test_log)
        self._facts["testing"] = tested.as_dict()
        if isinstance(predicted, str):
            raise submission_files.BadOutput(f"test.py: {predicted}")
        return predicted, f"training {trained.in_words()}; predictions taken"

    def _train(self, scratch: Path) -> tuple[sandboxed_step.Outcome, Sequence[Copy]]:
        """Runs training.py, which saves `weights` in the scratch folder; copies them meanwhile, if asked for."""
        images, settings = self._task.train, self._settings
        arguments: list[str | Path] = ["--data", images, "--net_sav", scratch / "weights"]
        arguments += ["--budget", f"{settings.budget:g}"]
        step = Step(self._source, "training.py", arguments, [images], scratch, self._task.seed)
        limits, score = settings.limits(settings.budget, self._task.place), settings.score
        make_scratch(scratch, limits.disk, step.user)
        if not score.over_time:
            return sandboxed_step.run(step, limits, settings.sandbox, self._log), []
        at = instants(settings.budget, score.t0, score.copies)
        copiers: list[Copier] = []

        def beside(job: Any) -> Copier:
            copiers.append(Copier(job, scratch / "weights", self._work / "copies", at, settings.budget, settings.disk))
            return copiers[0]

        trained = sandboxed_step.run(step, limits, settings.sandbox, self._log, beside)
        self._facts["copies_left_out"] = copiers[0].left_out
        return trained, copiers[0].copies

    def _score_copies(self, copies: Sequence[Copy]) -> None:
        """Predicts with each copy. One that test.py cannot use counts as not taken: it may be half of a file."""
        facts = self._facts["copies"] = []
        for copy in copies:
            # as the weights of the end are: a submission must not know which it is given
            weights = self._work / "weights"
            copy.path.replace(weights)
            # one log for all of them: thousands of logs would fill the disk
            log = self._test_log.with_name(f"{self._test_log.stem}-copies.txt")
            predicted, tested = self._predict(weights, log)
            weights.unlink()
            problem = predicted if isinstance(predicted, str) else None
            facts.append({"seconds": copy.seconds, "problem": problem, "predicted_in": tested.wall_seconds})
            self._copies.append(None if isinstance(predicted, str) else predicted)

    def _predict(self, weights: Path, log: Path) -> tuple[np.ndarray | str, sandboxed_step.Outcome]:
        """Runs test.py on the test images.

        Returns:
            The predictions int64 [N] in the order of the test set, or why there are none; and how the step ended.
        """
        # the order of a test set may reveal its labels, so each step gets another order
        test_images, settings = self._task.test_images, self._settings
        order = np.random.default_rng().permutation(len(test_images))
        images = self._work / "images.npz"
        np.savez(images, images=test_images[order])
        images.chmod(0o644)
        scratch = self._work / "testing"
        submission_files.clear(scratch)
        arguments: list[str | Path] = ["--data", images, "--net_sav", weights]
        arguments += ["--predictions", scratch / "predictions.npy"]
        step = Step(self._source, "test.py", arguments, [images, weights], scratch, self._task.seed)
        limits = settings.limits(settings.test_budget, self._task.place)
        make_scratch(scratch, limits.disk, step.user)
        # the script has seen the test images and may print them, so its log is not published
        tested = sandboxed_step.run(step, limits, settings.sandbox, log)
        if tested.limit:
            return tested.limit, tested
        try:
            found = submission_files.read_predictions(scratch, "predictions.npy", len(order), self._task.num_classes)
        except submission_files.BadOutput as error:
            # not in its own words: it has seen the secret images
            return f"{tested.in_words(quoting=False)}; {error}", tested
        predicted = np.empty_like(found)
        predicted[order] = found
        return predicted, tested


def _images_seen(log: Path) -> int | None:
    """The number in the last line `images_seen: N` of a log; None if it has no such line."""
    found = re.findall(rb"^images_seen: (\d{1,15})\s*$", log.read_bytes(), re.MULTILINE)
    return int(found[-1]) if found else None
