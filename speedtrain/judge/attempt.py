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

from speedtrain.judge import confine, outputs, sandbox, speed
from speedtrain.judge.archive import Submission
from speedtrain.judge.copies import Copier, Copy, instants
from speedtrain.judge.sandbox import Step
from speedtrain.judge.settings import Settings


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
    """

    submission: Submission
    train: Path
    test_images: np.ndarray
    num_classes: int
    settings: Settings
    seed: int
    place: int = 0


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
        seconds: that it took, with everything.
    """

    outcome: Outcome
    speeds: tuple[float | None, float | None]
    seconds: float


def measured_attempt(task: Task, work: Path, log: Path, test_log: Path) -> Measured:
    """An attempt in a new folder, which is removed, between two measurements of the machine's speed.

    Args and errors as for `run_attempt`; whatever is in the folder is removed.
    """
    started = time.monotonic()
    outputs.clear(work)
    work.mkdir(mode=0o700)
    before = _speed(task)
    outcome = run_attempt(task, work, log, test_log)
    outputs.clear(work)
    return Measured(outcome, (before, _speed(task)), round(time.monotonic() - started, 3))


def _speed(task: Task) -> float | None:
    """The machine's speed at the moment; None where any drift is allowed."""
    settings = task.settings
    return speed.measure(settings.limits(1, task.place).cpus) if math.isfinite(settings.drift) else None


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
        except outputs.BadOutput as error:
            return Outcome({**self._facts, "failed": True, "verdict": f"failed: {error}"}, None, self._copies)
        return Outcome({**self._facts, "failed": False, "verdict": verdict}, predictions, self._copies)

    def _train_and_predict(self) -> tuple[np.ndarray, str]:
        trained, copies = self._train(self._work / "training")
        self._facts["training"] = trained.as_dict()
        self._facts["images_seen"] = _images_seen(self._log)
        if trained.limit:
            raise outputs.BadOutput(trained.limit)
        weights = self._work / "weights"
        try:
            outputs.take(self._work / "training", "weights", weights, self._settings.disk)
            problem = None
        except outputs.BadOutput as error:
            problem = f"{trained.in_words()}; {error}"
        outputs.clear(self._work / "training")
        if self._settings.score.over_time:
            self._score_copies(copies)
        if problem:
            raise outputs.BadOutput(problem)
        predicted, tested = self._predict(weights, self._test_log)
        self._facts["testing"] = tested.as_dict()
        if isinstance(predicted, str):
            raise outputs.BadOutput(f"test.py: {predicted}")
        return predicted, f"training {trained.in_words()}; predictions taken"

    def _train(self, scratch: Path) -> tuple[confine.Outcome, Sequence[Copy]]:
        """Runs training.py, which saves `weights` in the scratch folder; copies them meanwhile, if asked for."""
        images, settings = self._task.train, self._settings
        arguments: list[str | Path] = ["--data", images, "--net_sav", scratch / "weights"]
        arguments += ["--budget", f"{settings.budget:g}"]
        step = Step(self._source, "training.py", arguments, [images], scratch, self._task.seed)
        sandbox.prepare(step)
        limits, score = settings.limits(settings.budget, self._task.place), settings.score
        if not score.over_time:
            return confine.run(step, limits, settings.sandbox, self._log), []
        at = instants(settings.budget, score.t0, score.copies)
        copiers: list[Copier] = []

        def beside(job: Any) -> Copier:
            copiers.append(Copier(job, scratch / "weights", self._work / "copies", at, settings.budget, settings.disk))
            return copiers[0]

        trained = confine.run(step, limits, settings.sandbox, self._log, beside)
        self._facts["copies_left_out"] = copiers[0].left_out
        return trained, copiers[0].copies

    def _score_copies(self, copies: Sequence[Copy]) -> None:
        """Predicts with each copy. One that test.py cannot use counts as not taken: it may be half of a file."""
        facts = self._facts["copies"] = []
        for copy in copies:
            # under the name that the weights of the end have too: a submission must not know which it is given
            weights = copy.path.with_name("weights")
            copy.path.replace(weights)
            # one log for all of them: thousands of logs would fill the disk
            log = self._test_log.with_name(f"{self._test_log.stem}-copies.txt")
            predicted, tested = self._predict(weights, log)
            weights.unlink()
            problem = predicted if isinstance(predicted, str) else None
            facts.append({"seconds": copy.seconds, "problem": problem, "predicted_in": tested.wall_seconds})
            self._copies.append(None if isinstance(predicted, str) else predicted)

    def _predict(self, weights: Path, log: Path) -> tuple[np.ndarray | str, confine.Outcome]:
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
        outputs.clear(scratch)
        arguments: list[str | Path] = ["--data", images, "--net_sav", weights]
        arguments += ["--predictions", scratch / "predictions.npy"]
        step = Step(self._source, "test.py", arguments, [images, weights], scratch, self._task.seed)
        sandbox.prepare(step)
        # the script has seen the test images and may print them, so its log is not published
        tested = confine.run(step, settings.limits(settings.test_budget, self._task.place), settings.sandbox, log)
        if tested.limit:
            return tested.limit, tested
        try:
            found = outputs.read_predictions(scratch, "predictions.npy", len(order), self._task.num_classes)
        except outputs.BadOutput as error:
            # not in its own words: it has seen the secret images
            return f"{tested.in_words(quoting=False)}; {error}", tested
        predicted = np.empty_like(found)
        predicted[order] = found
        return predicted, tested


def _images_seen(log: Path) -> int | None:
    """The number in the last line `images_seen: N` of a log; None if it has no such line."""
    found = re.findall(rb"^images_seen: (\d{1,15})\s*$", log.read_bytes(), re.MULTILINE)
    return int(found[-1]) if found else None
