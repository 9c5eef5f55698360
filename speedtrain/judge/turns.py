"""The runs of a judging, in turns: each submission runs once, then each runs again, every time in an empty folder."""

import io
import math
import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from speedtrain.data import Data
from speedtrain.errors import UserError
from speedtrain.files import write_atomic
from speedtrain.judge import confine, outputs, sandbox, speed
from speedtrain.judge.archive import Submission
from speedtrain.judge.journal import Journal
from speedtrain.judge.sandbox import Step
from speedtrain.judge.settings import Settings

MOST_REPEATS = 2
"""How often a run is repeated because the machine drifted. After that the last attempt counts, and is marked."""


class Turns:
    """Runs what the journal does not hold yet.

    Args:
        submissions: name on the board → submission.
        data: training and test images.
        out: folder of the board, an absolute path. `private/inputs/train.npz` in it holds the training images.
        settings: the rules of the judging.
        journal: where finished runs are recorded.
        report: called with each line for a person.
    """

    def __init__(
        self,
        submissions: Mapping[str, Submission],
        data: Data,
        out: Path,
        settings: Settings,
        journal: Journal,
        report: Callable[[str], None],
    ) -> None:
        self.submissions, self.data, self.out, self.settings = submissions, data, out, settings
        self.journal, self.report = journal, report
        self.private = out / "private"
        self.cpus = settings.limits(1).cpus

    @property
    def left(self) -> list[tuple[str, int]]:
        """The runs that are not finished, as name on the board and number of the run, in order."""
        return [
            (key, run)
            for run in range(1, self.settings.runs + 1)
            for key, submission in self.submissions.items()
            if not submission.refused and not self._finished(key, run)
        ]

    def run_all(self) -> None:
        """Runs A B C A B C …

        Raises:
            UserError: the machine failed before a submission's first instruction, or the judge itself failed. Such a
                run is not recorded.
        """
        left = self.left
        failed: dict[str, str] = {}
        total = self.settings.runs * sum(not submission.refused for submission in self.submissions.values())
        num_finished = total - len(left)
        if num_finished:
            self.report(f"{num_finished} of {total} runs were judged before")
        for index, (key, run) in enumerate(left):
            if key in failed:
                continue
            name, remaining = self.submissions[key].name, self._remaining_time(left[index:])
            number = num_finished + index + 1
            self.report(f"run {number} of {total}: {name}, its run {run}; about {remaining} left")
            while not self._finished(key, run):
                try:
                    entry = self._run(key, run)
                except UserError:
                    raise
                except Exception as error:  # a fault of the judge's own is never an entrant's, nor another's loss
                    failed[key] = f"{type(error).__name__}: {error}"
                    self.report(f"  the judge itself failed ({failed[key]}); going on with the others")
                    self._keep_traceback()
                    break
                self.journal.add(entry)
                self.report(f"  {entry['verdict']}" + (" (the machine drifted)" if entry["drifted"] else ""))

        if failed:
            names = ", ".join(self.submissions[key].name for key in failed)
            raise UserError(
                f"the judge itself failed on {names} ({next(iter(failed.values()))}; see "
                f"{self.private / 'judge-error.txt'}): these runs are not recorded; judge --resume runs them"
            )

    def _keep_traceback(self) -> None:
        """Keeps what an error of the judge's own was, for whoever mends it."""
        with suppress(OSError), open(self.private / "judge-error.txt", "a", errors="backslashreplace") as file:
            file.write(traceback.format_exc())

    def _finished(self, key: str, run: int) -> bool:
        attempts = self.journal.attempts(key, run)
        return bool(attempts) and not attempts[-1]["repeat"]

    def _remaining_time(self, left: Sequence[tuple[str, int]]) -> str:
        """An estimate from the earlier runs of each submission, or from the budget where there are none."""
        seconds = 0.0
        for key, _ in left:
            earlier = [entry["seconds"] for entry in self.journal.runs if entry["submission"] == key]
            seconds += sum(earlier) / len(earlier) if earlier else self.settings.budget + 10
        if seconds < 90:
            return f"{seconds:.0f} s"
        return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.0f} min"

    def _run(self, key: str, run: int) -> dict[str, Any]:
        """One attempt at a run, as a line of the journal."""
        started = time.monotonic()
        work = self.private / "work"
        outputs.clear(work)
        work.mkdir(mode=0o700)
        before = self._speed()
        facts = self._train_and_test(key, run, work)
        outputs.clear(work)
        after = self._speed()
        reference = self.journal.header["speed"]
        drifted = any(now is not None and abs(now / reference - 1) > self.settings.drift for now in (before, after))
        return {
            "submission": key,
            "run": run,
            **facts,
            "speed_before": before,
            "speed_after": after,
            "drifted": drifted,
            "repeat": drifted and len(self.journal.attempts(key, run)) < MOST_REPEATS,
            "seconds": round(time.monotonic() - started, 3),
        }

    def _speed(self) -> float | None:
        """The machine's speed at the moment; None where any drift is allowed."""
        return speed.measure(self.cpus) if math.isfinite(self.settings.drift) else None

    def _train_and_test(self, key: str, run: int, work: Path) -> dict[str, Any]:
        source, seed = work / "submission", (self.journal.header["seed"] + run) % (1 << 31)
        self.submissions[key].unpack(source)
        facts: dict[str, Any] = {"seed": seed, "training": None, "testing": None, "predictions": None}
        facts["log"] = f"logs/{key}/run-{run}.txt"
        log = self.out / facts["log"]
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            trained = self._train(source, work / "training", seed, log)
            facts["training"] = trained.as_dict()
            facts["images_seen"] = _images_seen(log)
            if trained.limit:
                raise outputs.BadOutput(trained.limit)
            weights = work / "weights"
            try:
                outputs.take(work / "training", "weights", weights, self.settings.disk)
            except outputs.BadOutput as error:
                raise outputs.BadOutput(f"{trained.in_words()}; {error}") from None
            outputs.clear(work / "training")
            predicted, tested = self._predict(key, run, work, weights, seed)
            facts["testing"] = tested.as_dict()
            if isinstance(predicted, str):
                raise outputs.BadOutput(f"test.py: {predicted}")
        except outputs.BadOutput as error:
            return {**facts, "failed": True, "verdict": f"failed: {error}"}
        file = self.private / "predictions" / f"{key}-run-{run}.npy"
        file.parent.mkdir(exist_ok=True)
        content = io.BytesIO()
        np.save(content, predicted)
        write_atomic(file, content.getvalue())
        facts["predictions"] = file.name
        return {**facts, "failed": False, "verdict": f"training {trained.in_words()}; predictions taken"}

    def _train(self, source: Path, scratch: Path, seed: int, log: Path) -> confine.Outcome:
        """Runs training.py, which saves `weights` in the scratch folder."""
        images = self.private / "inputs" / "train.npz"
        budget = self.settings.budget
        sandbox.prepare(scratch)
        arguments: list[str | Path] = ["--data", images, "--net_sav", scratch / "weights", "--budget", f"{budget:g}"]
        step = Step(source, "training.py", arguments, [images], scratch, seed)
        return confine.run(step, self.settings.limits(budget), self.settings.sandbox, log)

    def _predict(
        self, key: str, run: int, work: Path, weights: Path, seed: int
    ) -> tuple[np.ndarray | str, confine.Outcome]:
        """Runs test.py on the test images.

        Returns:
            The predictions int64 [N] in the order of the test set, or why there are none; and how the step ended.
        """
        # the order of a test set may reveal its labels, so each run gets another order
        order = np.random.default_rng().permutation(len(self.data.test.images))
        images = work / "images.npz"
        np.savez(images, images=self.data.test.images[order])
        images.chmod(0o644)
        scratch = work / "testing"
        sandbox.prepare(scratch)
        arguments: list[str | Path] = [
            "--data",
            images,
            "--net_sav",
            weights,
            "--predictions",
            scratch / "predictions.npy",
        ]
        step = Step(work / "submission", "test.py", arguments, [images, weights], scratch, seed)
        # the script has seen the test images and may print them, so its log is not published
        log = self.private / "test-logs" / f"{key}-run-{run}.txt"
        log.parent.mkdir(exist_ok=True)
        tested = confine.run(step, self.settings.limits(self.settings.test_budget), self.settings.sandbox, log)
        if tested.limit:
            return tested.limit, tested
        try:
            found = outputs.read_predictions(scratch, "predictions.npy", len(order), len(self.data.train.classes))
        except outputs.BadOutput as error:
            return f"{tested.in_words()}; {error}", tested
        predicted = np.empty_like(found)
        predicted[order] = found
        return predicted, tested


def _images_seen(log: Path) -> int | None:
    """The number in the last line `images_seen: N` of a log; None if it has no such line."""
    found = re.findall(rb"^images_seen: (\d{1,15})\s*$", log.read_bytes(), re.MULTILINE)
    return int(found[-1]) if found else None
