"""The turns: every submission runs once, then every one again, each time in a place that is new to it."""

import hashlib
import io
import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speedtrain.data import Data, load_images
from speedtrain.errors import UserError
from speedtrain.files import write_atomic
from speedtrain.judge import confine, outputs, sandbox, speed
from speedtrain.judge.archive import Submission, read_submission
from speedtrain.judge.journal import Journal
from speedtrain.judge.sandbox import Kind, Limits, Step
from speedtrain.machine import available_cores, core_numbers, total_memory

SCHEMA = 1
MOST_REPEATS = 2
"""Times a run is repeated because the machine drifted; after that the last one counts, and is marked."""


@dataclass(frozen=True)
class Settings:
    """The rules of a judging, the same for every submission.

    Attributes:
        budget: seconds of a training, from start to kill.
        test_budget: seconds for predicting.
        runs: of each submission.
        memory, disk, processes: as in `Limits`.
        cpus: number of cores.
        sandbox: bwrap or none.
        drift: part by which the machine's speed may differ from that at the beginning before a run is repeated.
    """

    budget: float
    test_budget: float
    runs: int
    memory: int
    disk: int
    processes: int
    cpus: int
    sandbox: Kind
    drift: float

    def limits(self, seconds: float) -> Limits:
        """For one step."""
        cores = tuple(core_numbers()[: self.cpus])
        return Limits(seconds, self.memory, self.disk, self.processes, cpus=cores)

    def check(self, out: Path) -> None:
        """Makes sure that this machine can give what is promised: a limit that is set is the limit that applies.

        Raises:
            UserError: it cannot.
        """
        cores = available_cores()
        if self.cpus > cores:
            raise UserError(f"--cpus {self.cpus}: this machine gives {cores}")
        memory = total_memory()
        if self.memory > memory:
            raise UserError(f"--memory {confine.in_bytes(self.memory)}: there are {confine.in_bytes(memory)} here")
        free = shutil.disk_usage(next(path for path in (out, *out.absolute().parents) if path.exists())).free
        if 2 * self.disk > free:  # scratch, and the weights that are taken over from it
            raise UserError(
                f"--disk {confine.in_bytes(self.disk)}: twice as much must be free, "
                f"but {out} has {confine.in_bytes(free)}"
            )


def judge(
    archives: Sequence[Path],
    data: Data,
    out: Path,
    settings: Settings,
    *,
    secret: Mapping[str, Path],
    resume: bool = False,
    say: Callable[[str], None],
) -> None:
    """Runs every submission as often as the settings say, and keeps what came of it in `out`.

    Args:
        archives: the zips.
        data: training and test images.
        out: folder of the board; new or empty unless resuming.
        secret: option → path that no submission may read, besides `out`.
        resume: go on where an interrupted judging with the same arguments stopped.
        say: tells a person one line.

    Raises:
        UserError: bad input, before anything is run.
    """
    submissions = _read_all(archives)
    settings.check(out)
    sandbox.check(settings.sandbox, {**secret, "--out": out})
    private = _open_board(out, resume)
    if settings.sandbox == "none":
        say("warning: --sandbox none: the submissions can read and write whatever you can, and use the network")
    header, varies = _header(submissions, data, settings)
    if varies > settings.drift:
        say(f"warning: this machine's speed varies by {varies:.0%} already: something else is running on it")
    journal = Journal(private / "journal.jsonl", None if resume else header)
    try:
        for key, value in header.items():
            if key not in ("seed", "speed", "began") and journal.header[key] != value:
                raise UserError(f"--resume: {key} is not what it was when {out} was begun; judge into a new folder")
        for key, submission in submissions.items():
            (out / "descriptions").mkdir(exist_ok=True)
            (out / "descriptions" / f"{key}.md").write_text(submission.description, encoding="utf-8")
        for note in data.notes:
            say(note)
        for submission in submissions.values():
            if submission.refused:
                say(f"{submission.name}: refused ({submission.refused})")
        inputs = private / "inputs"
        inputs.mkdir(exist_ok=True)
        np.savez(
            inputs / "train.npz",
            images=data.train.images,
            labels=data.train.labels,
            classes=np.array(data.train.classes),
        )
        (inputs / "train.npz").chmod(0o644)
        turns = _Turns(submissions, data, out, settings, journal, say)
        turns.take()
    finally:
        journal.close()
        outputs.clear(private / "work")


def _read_all(archives: Sequence[Path]) -> dict[str, Submission]:
    """The submissions under the names of their files on the board, which are safe ones."""
    if not archives:
        raise UserError("no submission: name at least one zip")
    submissions: dict[str, Submission] = {}
    for number, path in enumerate(archives, 1):
        submission = read_submission(path)
        if any(other.sha256 == submission.sha256 for other in submissions.values()):
            raise UserError(f"{path}: this submission is given twice")
        readable = re.sub("[^a-z0-9]+", "-", submission.name.lower()).strip("-")[:40]
        submissions[f"{number:02}-{readable}".strip("-")] = submission
    return submissions


def _open_board(out: Path, resume: bool) -> Path:
    """The board's folder for what is not to be published."""
    private = out / "private"
    try:
        if resume and not (private / "journal.jsonl").exists():
            raise UserError(f"--resume: nothing was judged in {out} yet")
        if not resume and out.exists() and any(out.iterdir()):
            raise UserError(f"--out {out}: exists and is not empty; give --resume to go on, or name a new folder")
        out.mkdir(parents=True, exist_ok=True)
        private.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from None
    return private


def _header(submissions: Mapping[str, Submission], data: Data, settings: Settings) -> tuple[dict[str, Any], float]:
    """What is judged, and how; and by which part the machine's speed varies."""
    middle, varies = speed.settle(settings.limits(1).cpus)
    header = {
        "schema": SCHEMA,
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "settings": asdict(settings),
        "data": {"name": data.train.name, "num_train": len(data.train.labels), "train_sha256": data.train.sha256()},
        "classes": list(data.train.classes),
        "num_test_images": len(data.test.labels),
        "test_images_sha256": images_sha256(data.test.images),
        "speed": middle,
        "seed": secrets.randbelow(1 << 31),
        "submissions": {
            key: {
                **{name: getattr(submission, name) for name in ("sha256", "name", "authors", "version", "licence")},
                "rules": [asdict(rule) for rule in submission.rules],
                "notes": list(submission.notes),
                "refused": submission.refused,
            }
            for key, submission in submissions.items()
        },
    }
    return header, varies


def images_sha256(images: np.ndarray) -> str:
    """Hex digest of the bytes of images uint8 [N, H, W, 3]."""
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()


def test_labels(out: Path, test: Path) -> np.ndarray:
    """Labels int64 [N] of the test images of a judged board, read again.

    Raises:
        UserError: the images are not those that were judged on.
    """
    images, labels, names = load_images(test, need_labels=True)
    assert labels is not None
    journal = Journal(out / "private" / "journal.jsonl")
    journal.close()
    if images_sha256(images) != journal.header["test_images_sha256"]:
        raise UserError(f"--test {test}: these are not the images that {out} was judged on")
    classes = journal.header["classes"]
    if names is not None and list(names) != classes:
        raise UserError(f"--test {test}: its classes are not those that {out} was judged on")
    if labels.max() >= len(classes):
        raise UserError(f"--test {test}: label {labels.max()}, but there are {len(classes)} classes")
    return labels


class _Turns:
    """The runs that are still to be done, in turn."""

    def __init__(
        self,
        submissions: Mapping[str, Submission],
        data: Data,
        out: Path,
        settings: Settings,
        journal: Journal,
        say: Callable[[str], None],
    ) -> None:
        self.submissions, self.data, self.out, self.settings = submissions, data, out, settings
        self.journal, self.say = journal, say
        self.private = out / "private"
        self.cpus = settings.limits(1).cpus

    def take(self) -> None:
        """A B C A B C …, leaving out what the journal has already."""
        turns = [
            (key, run)
            for run in range(1, self.settings.runs + 1)
            for key, submission in self.submissions.items()
            if not submission.refused
        ]
        left = [turn for turn in turns if not self._finished(*turn)]
        if len(left) < len(turns):
            self.say(f"{len(turns) - len(left)} of {len(turns)} runs were judged before")
        for place, (key, run) in enumerate(left):
            number = len(turns) - len(left) + place + 1
            name, more = self.submissions[key].name, self._seconds_left(left[place:])
            self.say(f"run {number} of {len(turns)}: {name}, its run {run}; about {more} left")
            while not self._finished(key, run):
                entry = self._run(key, run)
                self.journal.add(entry)
                self.say(f"  {entry['verdict']}" + (" (the machine drifted)" if entry["drifted"] else ""))

    def _finished(self, key: str, run: int) -> bool:
        attempts = self.journal.attempts(key, run)
        return bool(attempts) and not attempts[-1]["repeat"]

    def _seconds_left(self, left: Sequence[tuple[str, int]]) -> str:
        """By how long each one's runs took so far; those not yet seen are taken to use their budget."""
        seconds = 0.0
        for key, _ in left:
            took = [entry["seconds"] for entry in self.journal.runs if entry["submission"] == key]
            seconds += sum(took) / len(took) if took else self.settings.budget + 10
        if seconds < 90:
            return f"{seconds:.0f} s"
        return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.0f} min"

    def _run(self, key: str, run: int) -> dict[str, Any]:
        """One run, from an empty folder to predictions in the board's."""
        begun = time.monotonic()
        work = self.private / "work"
        outputs.clear(work)
        work.mkdir(mode=0o700)
        before = speed.measure(self.cpus)
        facts = self._train_and_test(key, run, work)
        outputs.clear(work)
        after = speed.measure(self.cpus)
        drifted = any(abs(now / self.journal.header["speed"] - 1) > self.settings.drift for now in (before, after))
        return {
            "submission": key,
            "run": run,
            **facts,
            "speed_before": before,
            "speed_after": after,
            "drifted": drifted,
            "repeat": drifted and len(self.journal.attempts(key, run)) < MOST_REPEATS,
            "seconds": round(time.monotonic() - begun, 3),
        }

    def _train_and_test(self, key: str, run: int, work: Path) -> dict[str, Any]:
        settings = self.settings
        source, seed = work / "submission", (self.journal.header["seed"] + run) % (1 << 31)
        self.submissions[key].unpack(source)
        facts: dict[str, Any] = {"seed": seed, "training": None, "testing": None, "predictions": None}
        facts["log"] = f"logs/{key}/run-{run}.txt"
        log = self.out / facts["log"]
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            train = self.private / "inputs" / "train.npz"
            scratch = work / "training"
            sandbox.prepare(scratch)
            arguments: list[str | Path] = [
                "--data",
                train,
                "--net_sav",
                scratch / "weights",
                "--budget",
                f"{settings.budget:g}",
            ]
            step = Step(source, "training.py", arguments, [train], scratch, seed)
            trained = confine.run(step, settings.limits(settings.budget), settings.sandbox, log)
            facts["training"] = trained.as_dict()
            facts["images_seen"] = _images_seen(log)
            if trained.limit:
                raise outputs.BadOutput(trained.limit)
            weights = work / "weights"
            try:
                outputs.take(scratch, "weights", weights, settings.disk)
            except outputs.BadOutput as error:
                raise outputs.BadOutput(f"{trained.in_words()}; {error}") from None
            outputs.clear(scratch)
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

    def _predict(
        self, key: str, run: int, work: Path, weights: Path, seed: int
    ) -> tuple[np.ndarray | str, confine.Outcome]:
        """What test.py makes of the test images: predictions int64 [N] in the set's order, or why there are none."""
        # the order of a test set may give its labels away, hence another order every time
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
        log = self.private / "test-logs" / f"{key}-run-{run}.txt"  # it has seen the test images, and may print them
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
    """What the submission tells in the last line `images_seen: N` of its log, if it tells."""
    found = re.findall(rb"^images_seen: (\d{1,15})\s*$", log.read_bytes(), re.MULTILINE)
    return int(found[-1]) if found else None
