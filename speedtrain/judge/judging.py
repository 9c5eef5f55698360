"""A judging from its beginning to its end: read the submissions, check the machine, open the board, take turns."""

import hashlib
import math
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from speedtrain.data import Data, load_images
from speedtrain.errors import UserError
from speedtrain.judge import outputs, sandbox_check, speed
from speedtrain.judge.archive import Rule, Submission, read_submission
from speedtrain.judge.confine import plain_text
from speedtrain.judge.journal import Journal
from speedtrain.judge.settings import Settings
from speedtrain.judge.turns import Turns

SCHEMA = 1


def judge(
    archives: Sequence[Path],
    data: Data,
    out: Path,
    settings: Settings,
    *,
    secret: Mapping[str, Path],
    resume: bool = False,
    report: Callable[[str], None],
) -> None:
    """Runs every submission as often as the settings ask for, and stores the journal and all outputs in `out`.

    Args:
        archives: the zips.
        data: training and test images.
        out: folder of the board, an absolute path; new or empty unless resuming.
        settings: the rules of the judging.
        secret: option → path that no submission may read; `out` is always among these paths.
        resume: go on where an interrupted judging with the same arguments stopped.
        report: called with each line for a person.

    Raises:
        UserError: bad input, found before anything is run; or this machine failed before the first instruction of a
            submission, in which case that run is not recorded.
    """
    begun = _has_begun(out)
    submissions = _read_all(archives, inspected=not (resume and begun))
    settings.check(out)
    sandbox_check.check(settings.sandbox, settings.limits(60), {**secret, "--out": out})
    private = _open_board(out, resume, begun)
    if resume and not begun:
        report(f"{out}: nothing was judged here yet; beginning now")
        resume = False
    if settings.sandbox == "none":
        report("warning: --sandbox none: the submissions can read and write whatever you can, and use the network")
    rules = _rules(submissions, data, settings)
    if resume:
        journal = Journal(private / "journal.jsonl")
    else:
        reference, variation = _reference_speed(settings)
        began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        header = {**rules, "began": began, "speed": reference, "seed": secrets.randbelow(1 << 31)}
        journal = Journal(private / "journal.jsonl", header)
    try:
        for key, value in rules.items():
            if _without_notes(journal.header[key]) != _without_notes(value):
                raise UserError(f"--resume: {key} is not what it was when {out} was begun; judge into a new folder")
        turns = Turns(submissions, data, out, settings, journal, report)
        if resume:
            _, variation = _reference_speed(settings) if turns.left else (None, 0.0)
        if variation > settings.drift:
            report(f"warning: this machine's speed varies by {variation:.0%} already: something else is running on it")
        for key, submission in submissions.items():
            (out / "descriptions").mkdir(exist_ok=True)
            # as text: in a page, Markdown of a stranger's could hold scripts and links that lead elsewhere
            text = plain_text(submission.description.encode())
            (out / "descriptions" / f"{key}.txt").write_text(text, encoding="utf-8")
        for note in data.notes:
            report(note)
        for submission in submissions.values():
            if submission.refused:
                report(f"{submission.name}: refused ({submission.refused})")
        inputs = private / "inputs"
        inputs.mkdir(exist_ok=True)
        np.savez(
            inputs / "train.npz",
            images=data.train.images,
            labels=data.train.labels,
            classes=np.array(data.train.classes),
        )
        (inputs / "train.npz").chmod(0o644)
        turns.run_all()
    finally:
        journal.close()
        with suppress(subprocess.CalledProcessError):  # what is left will be cleared before the next run, or told then
            outputs.clear(private / "work")


def _read_all(archives: Sequence[Path], *, inspected: bool) -> dict[str, Submission]:
    """The submissions by their names in the board's files; these names hold letters, digits and hyphens alone.

    One that was given before is refused, and the others are judged.
    """
    if not archives:
        raise UserError("no submission: name at least one zip")
    submissions: dict[str, Submission] = {}
    for number, path in enumerate(archives, 1):
        submission = read_submission(path, inspected=inspected)
        for key, other in submissions.items():
            if other.sha256 == submission.sha256:
                given_once = Rule("given once", False, f"it is the same file as submission {key.partition('-')[0]}")
                submission = replace(submission, rules=(*submission.rules, given_once))
                break
        readable = re.sub("[^a-z0-9]+", "-", submission.name.lower()).strip("-")[:40]
        submissions[f"{number:02}-{readable}".strip("-")] = submission
    return submissions


def _has_begun(out: Path) -> bool:
    """Whether a judging has begun there. One that was killed before the first line of its journal was whole has not."""
    try:
        return b"\n" in (out / "private" / "journal.jsonl").read_bytes()
    except OSError:
        return False


def _open_board(out: Path, resume: bool, begun: bool) -> Path:
    """Makes the board's folder; returns the folder in it for what must not be published."""
    private = out / "private"
    try:
        if resume and not begun and not private.exists():
            raise UserError(f"--resume: nothing was judged in {out} yet")
        # a judging that was killed before it had begun leaves a journal without a whole line, and nothing else
        others = [path for path in out.rglob("*") if path not in (private, private / "journal.jsonl")]
        if not (begun and resume) and (begun or others):
            raise UserError(f"--out {out}: exists and is not empty; give --resume to go on, or name a new folder")
        out.mkdir(parents=True, exist_ok=True)
        private.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from None
    return private


def _reference_speed(settings: Settings) -> tuple[float | None, float]:
    """The speed that drift is measured from, and its variation; no speed where any drift is allowed."""
    return speed.reference_speed(settings.limits(60).cpus) if math.isfinite(settings.drift) else (None, 0.0)


def _without_notes(rule: Any) -> Any:
    """A rule of the judging without the notes on submissions, which a resumed judging does not write again."""
    if not isinstance(rule, dict):
        return rule
    return {key: _without_notes(value) for key, value in rule.items() if key != "notes"}


def _rules(submissions: Mapping[str, Submission], data: Data, settings: Settings) -> dict[str, Any]:
    """What is judged, and how. A judging is resumed only if all of it is the same."""
    return {
        "schema": SCHEMA,
        "settings": asdict(settings),
        "data": {"name": data.train.name, "num_train": len(data.train.labels), "train_sha256": data.train.sha256()},
        "classes": list(data.train.classes),
        "num_test_images": len(data.test.labels),
        "test_images_sha256": images_sha256(data.test.images),
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


def images_sha256(images: np.ndarray) -> str:
    """Hex digest of the bytes of images uint8 [N, H, W, 3]."""
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()


def test_labels(out: Path, test: Path) -> np.ndarray:
    """Reads the test images of a judged board again; returns their labels int64 [N], which may have changed.

    Args:
        out: folder of the board.
        test: the test images.

    Raises:
        UserError: these are not the images that the submissions were judged on.
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
