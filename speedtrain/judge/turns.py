"""The runs of a judging, in turns: each submission runs once, then each runs again, every time in an empty folder."""

import io
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speedtrain.data import Data
from speedtrain.errors import UserError
from speedtrain.files import write_atomic
from speedtrain.judge.archive import Submission
from speedtrain.judge.attempt import Measured, Task, measured_attempt
from speedtrain.judge.board_folder import train_file
from speedtrain.judge.journal import Journal
from speedtrain.judge.machine_speed import is_off
from speedtrain.judge.settings import Settings


@dataclass(frozen=True)
class Turn:
    """One run.

    Attributes:
        submission: its name on the board.
        run: number of the run, from 1.
        regime: name of the training set; empty where there is only one.
        control_for: a late submission whose runs this one is compared with by the clock; empty for a run that counts.
    """

    submission: str
    run: int
    regime: str = ""
    control_for: str = ""

    @property
    def stem(self) -> str:
        """Name of its files in the folder of its submission."""
        control = f"control-for-{self.control_for}" if self.control_for else ""
        return "-".join(filter(None, (control, self.regime, f"run-{self.run}")))


class Turns:
    """Runs what the journal does not hold yet.

    Args:
        submissions: name on the board → submission.
        regimes: name → training and test images.
        out: folder of the board, an absolute path. `train_file` tells where it holds the training images.
        settings: the rules of the judging.
        journal: where finished runs are recorded.
        report: called with each line for a person.

    Attributes:
        package_files: files of the packages that submissions may use, read into memory before every run.
    """

    def __init__(
        self,
        submissions: Mapping[str, Submission],
        regimes: Mapping[str, Data],
        out: Path,
        settings: Settings,
        journal: Journal,
        report: Callable[[str], None],
    ) -> None:
        self.submissions, self.regimes, self.out, self.settings = submissions, regimes, out, settings
        self.journal, self.report = journal, report
        self.private = out / "private"
        self.package_files: tuple[str, ...] = ()

    @property
    def all(self) -> list[Turn]:
        """Every run, in order. A late submission takes turns with one that was there before."""
        facts, late = self.journal.submissions, self.journal.late
        gone = {key for key in facts if facts[key]["refused"] or key in self.journal.withdrawn}
        in_time = [key for key in facts if key not in late]
        runs = range(1, self.settings.runs + 1)
        turns = [Turn(key, run, regime) for run in runs for regime in self.regimes for key in in_time]
        for key, event in late.items():
            for run in runs:
                for regime in self.regimes:
                    turns += [Turn(event["control"], run, regime, key)] if event["control"] else []
                    turns.append(Turn(key, run, regime))
        return [turn for turn in turns if turn.submission not in gone and turn.control_for not in gone]

    @property
    def left(self) -> list[Turn]:
        """The runs that are not finished, in order."""
        return [turn for turn in self.all if not self._finished(turn)]

    def run_all(self) -> None:
        """Runs A B C A B C …

        Raises:
            UserError: the machine failed before a submission's first instruction, or the judge itself failed. Such a
                run is not recorded.
        """
        left = self.left
        failed: dict[str, str] = {}
        total = len(self.all)
        num_finished = total - len(left)
        if num_finished:
            self.report(f"{num_finished} of {total} runs were judged before")
        for index, turn in enumerate(left):
            if turn.submission in failed:
                continue
            name, remaining = self.submissions[turn.submission].name, self._remaining_time(left[index:])
            what = f"its run {turn.run}" + (f" on {turn.regime}" if turn.regime else "")
            if turn.control_for:
                what = f"again, to compare the machine with that of its {what.removeprefix('its ')}"
            self.report(f"run {num_finished + index + 1} of {total}: {name}, {what}; about {remaining} left")
            try:
                entry = self._run(turn)
            except UserError:
                raise
            except Exception as error:  # a fault of the judge's own is never an entrant's, nor another's loss
                failed[turn.submission] = f"{type(error).__name__}: {error}"
                self.report(f"  the judge itself failed ({failed[turn.submission]}); going on with the others")
                self._keep_traceback()
                continue
            self.journal.add(entry)
            self.report(f"  {entry['verdict']}{machine_in_words(entry)}")

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

    def _finished(self, turn: Turn) -> bool:
        return self.journal.is_finished(turn.submission, turn.run, turn.regime, turn.control_for)

    def _remaining_time(self, left: Sequence[Turn]) -> str:
        """An estimate from the earlier runs of each submission, or from the budget where there are none."""
        seconds = 0.0
        for turn in left:
            earlier = [entry["seconds"] for entry in self.journal.runs if entry["submission"] == turn.submission]
            seconds += sum(earlier) / len(earlier) if earlier else self.settings.budget + 10
        return in_time(seconds)

    def _run(self, turn: Turn) -> dict[str, Any]:
        """One attempt at a run, as a line of the journal."""
        reference = self.journal.header["speed"]
        measured = measured_attempt(self.task(turn), self.private / "work", *self.log_files(turn), reference)
        return self.entry(turn, measured, reference)

    def entry(self, turn: Turn, measured: Measured, reference: float | None) -> dict[str, Any]:
        """Keeps the predictions of an attempt; returns the line of the journal.

        Args:
            turn: the run.
            measured: the attempt.
            reference: the speed of the machine at the beginning, GFLOP/s; None where any drift is allowed.
        """
        outcome, speeds, drift = measured.outcome, measured.speeds, self.settings.drift
        name = f"{turn.submission}-{turn.stem}"
        predictions = self.private / "predictions"
        log, _ = self.log_files(turn)
        facts = {**outcome.facts, "log": str(log.relative_to(self.out))}
        facts["predictions"] = _keep(outcome.predictions, predictions / f"{name}.npy")
        for number, (copy, predicted) in enumerate(zip(facts.get("copies", []), outcome.copies, strict=True), 1):
            copy["predictions"] = _keep(predicted, predictions / f"{name}-copy-{number:03}.npy")
        drifted, changed = (bool(reference and now and is_off(now, reference, drift)) for now in speeds)
        return {
            "submission": turn.submission,
            "run": turn.run,
            **({"regime": turn.regime} if turn.regime else {}),
            **({"control_for": turn.control_for} if turn.control_for else {}),
            **facts,
            "speed_before": speeds[0],
            "speed_after": speeds[1],
            "waited": measured.waited,
            "drifted": drifted,
            "drifted_after": changed,
            "seconds": measured.seconds,
        }

    def task(self, turn: Turn) -> Task:
        """What is run in a turn."""
        data = self.regimes[turn.regime]
        return Task(
            self.submissions[turn.submission],
            train_file(self.out, turn.regime),
            data.test.images,
            len(data.train.classes),
            self.settings,
            (self.journal.header["seed"] + turn.run) % (1 << 31),
            package_files=self.package_files,
        )

    def log_files(self, turn: Turn) -> tuple[Path, Path]:
        """The files for what training prints, which is published, and for what predicting prints."""
        log = self.out / "logs" / turn.submission / f"{turn.stem}.txt"
        test_log = self.private / "test-logs" / f"{turn.submission}-{turn.stem}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        test_log.parent.mkdir(exist_ok=True)
        return log, test_log


def machine_in_words(entry: Mapping[str, Any]) -> str:
    """What was unusual about the machine around a run, in parentheses; empty if nothing was."""
    remarks = [f"after {in_time(entry['waited'])} of waiting for the machine"] if entry["waited"] > 10 else []
    remarks += ["begun on a machine of another speed"] if entry["drifted"] else []
    remarks += ["the machine had another speed at its end"] if entry["drifted_after"] else []
    return f" ({'; '.join(remarks)})" if remarks else ""


def in_time(seconds: float) -> str:
    """Seconds as a person writes them: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.0f} min"


def _keep(predicted: np.ndarray | None, path: Path) -> str | None:
    """Stores predictions; returns the name of the file, None where there are none."""
    if predicted is None:
        return None
    path.parent.mkdir(exist_ok=True)
    content = io.BytesIO()
    np.save(content, predicted)
    write_atomic(path, content.getvalue())
    return path.name
