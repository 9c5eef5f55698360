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
from speedtrain.files import write_atomic
from speedtrain.judge import outputs, sandbox_check, speed
from speedtrain.judge.archive import Rule, Submission, read_submission
from speedtrain.judge.confine import plain_text
from speedtrain.judge.journal import Journal
from speedtrain.judge.settings import Score, Settings, ZipRules
from speedtrain.judge.turns import Turns, train_file

SCHEMA = 2
EARLIER = {"score": asdict(Score()), "rules": asdict(ZipRules()), "gpus": None}
"""Settings that boards of schema 1 do not name."""


def judge(
    archives: Sequence[Path],
    regimes: Mapping[str, Data],
    out: Path,
    settings: Settings,
    *,
    secret: Mapping[str, Path],
    name: str = "",
    resume: bool = False,
    late: bool = False,
    report: Callable[[str], None],
) -> None:
    """Runs every submission as often as the settings ask for, and stores the journal and all outputs in `out`.

    Args:
        archives: the zips.
        regimes: name → training and test images; a single one has no name.
        out: folder of the board, an absolute path; new or empty unless resuming or late.
        settings: the rules of the judging.
        secret: option → path that no submission may read; `out` is always among these paths.
        name: of the competition. Default: none.
        resume: go on where an interrupted judging with the same arguments stopped.
        late: the zips join a board that was judged before, under the same rules; each takes turns with a submission
            that was there, so that a machine that has changed is seen.
        report: called with each line for a person.

    Raises:
        UserError: bad input, found before anything is run; or this machine failed before the first instruction of a
            submission, in which case that run is not recorded.
    """
    begun = _has_begun(out)
    if late and not begun:
        raise UserError(f"--add: nothing was judged in {out} yet; judge the first submissions without --add")
    submissions = _read_all(archives, settings, inspected=not (resume and begun))
    settings.check(out)
    sandbox_check.check(settings.sandbox, settings.limits(60), {**secret, "--out": out})
    private = _open_board(out, resume or late, begun)
    if resume and not begun:
        report(f"{out}: nothing was judged here yet; beginning now")
        resume = False
    if settings.sandbox == "none":
        report("warning: --sandbox none: the submissions can read and write whatever you can, and use the network")
    rules = _rules(name, regimes, settings)
    if resume or late:
        journal = Journal(private / "journal.jsonl")
    else:
        reference, variation = _reference_speed(settings)
        began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        header = {**rules, "submissions": _facts_of(submissions)}
        header |= {"began": began, "speed": reference, "seed": secrets.randbelow(1 << 31)}
        journal = Journal(private / "journal.jsonl", header)
    try:
        _refuse_other_rules(journal, rules, out)
        if late:
            submissions = _add(journal, private, submissions, settings)
        elif resume:
            _refuse_other_submissions(journal, submissions, out)
            submissions |= _stored(journal, private, settings)
        for key in sorted(submissions.keys() & journal.submissions.keys()):
            _keep_zip(private, key, submissions[key])
        turns = Turns(submissions, regimes, out, settings, journal, report)
        if resume or late:
            _, variation = _reference_speed(settings) if turns.left else (None, 0.0)
        if variation > settings.drift:
            report(f"warning: this machine's speed varies by {variation:.0%} already: something else is running on it")
        if turns.left:
            sandbox_check.check_packages(settings.sandbox)
        for key, submission in submissions.items():
            (out / "descriptions").mkdir(exist_ok=True)
            # as text: in a page, Markdown of a stranger's could hold scripts and links that lead elsewhere
            text = plain_text(submission.description.encode())
            (out / "descriptions" / f"{key}.txt").write_text(text, encoding="utf-8")
        for note in (note for data in regimes.values() for note in data.notes):
            report(note)
        for submission in submissions.values():
            if submission.refused:
                report(f"{submission.name}: refused ({submission.refused})")
        (private / "inputs").mkdir(exist_ok=True)
        for regime, data in regimes.items():
            _write_training_images(train_file(out, regime), data)
        turns.run_all()
    finally:
        journal.close()
        with suppress(subprocess.CalledProcessError):  # what is left will be cleared before the next run, or told then
            outputs.clear(private / "work")


def _write_training_images(path: Path, data: Data) -> None:
    train = data.train
    np.savez(path, images=train.images, labels=train.labels, classes=np.array(train.classes))
    path.chmod(0o644)


def _read_all(archives: Sequence[Path], settings: Settings, *, inspected: bool) -> dict[str, Submission]:
    """The submissions by their names in the board's files; these names hold letters, digits and hyphens alone.

    One that was given before is refused, and the others are judged.
    """
    if not archives:
        raise UserError("no submission: name at least one zip")
    submissions: dict[str, Submission] = {}
    for number, path in enumerate(archives, 1):
        submission = read_submission(path, settings.rules, inspected=inspected)
        for key, other in submissions.items():
            if other.sha256 == submission.sha256:
                given_once = Rule("given once", False, f"it is the same file as submission {key.partition('-')[0]}")
                submission = replace(submission, rules=(*submission.rules, given_once))
                break
        submissions[_key(number, submission)] = submission
    return submissions


def _key(number: int, submission: Submission) -> str:
    readable = re.sub("[^a-z0-9]+", "-", submission.name.lower()).strip("-")[:40]
    return f"{number:02}-{readable}".strip("-")


# ---- late submissions ----


def _add(
    journal: Journal, private: Path, submissions: Mapping[str, Submission], settings: Settings
) -> dict[str, Submission]:
    """Records late submissions, those that are not there yet; returns all submissions of the board."""
    there = {facts["sha256"]: key for key, facts in journal.submissions.items()}
    for submission in submissions.values():
        if submission.sha256 in there:
            if there[submission.sha256] not in {event["submission"] for event in journal.events("added")}:
                raise UserError(f"--add: {submission.name} is on the board already, as {there[submission.sha256]}")
            continue  # its judging was interrupted
        key = _key(len(journal.submissions) + 1, submission)
        control = None if submission.refused else _control(journal)
        _keep_zip(private, key, submission)
        facts = _facts_of({key: submission})[key]
        added = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        journal.add_event({"event": "added", "submission": key, "control": control, "added": added, "facts": facts})
    return _stored(journal, private, settings)


def _control(journal: Journal) -> str | None:
    """The first submission whose runs are all done and none failed, to be run again; None where there is none."""
    gone = {event["submission"] for event in journal.events("withdrawn")}
    for key, facts in journal.header["submissions"].items():
        runs = [run for run in journal.runs if run["submission"] == key and not run["repeat"]]
        if not facts["refused"] and key not in gone and runs and not any(run["failed"] for run in runs):
            return str(key)
    return None


def _keep_zip(private: Path, key: str, submission: Submission) -> None:
    """Keeps a submission's zip, by which it is run again beside a late one."""
    folder = private / "submissions"
    folder.mkdir(exist_ok=True)
    if submission.content and not (folder / f"{key}.zip").exists():
        write_atomic(folder / f"{key}.zip", submission.content)


def _stored(journal: Journal, private: Path, settings: Settings) -> dict[str, Submission]:
    """All submissions of a board, as they were kept."""
    found = {}
    for key, facts in journal.submissions.items():
        path = private / "submissions" / f"{key}.zip"
        if path.exists():
            found[key] = read_submission(path, settings.rules, inspected=False)
            if found[key].sha256 != facts["sha256"]:
                raise UserError(f"{path}: is not the submission that was judged")
        elif not facts["refused"]:
            raise UserError(f"{path}: is missing: a board judged by an earlier version cannot be added to")
        if facts["refused"] and key in found and not found[key].refused:  # given twice
            del found[key]
    return found


def withdraw(out: Path, key: str, reason: str) -> None:
    """Takes a submission out of the ranking of a judged board. It stays listed, with the reason.

    Args:
        out: folder of the board.
        key: name of the submission in the board's files, or its number.
        reason: why, for the board.

    Raises:
        UserError: no such submission, or no reason.
    """
    journal = Journal(out / "private" / "journal.jsonl")
    try:
        found = [known for known in journal.submissions if key in (known, known.partition("-")[0])]
        if not found:
            raise UserError(f"--withdraw {key}: no such submission; there is {', '.join(journal.submissions)}")
        if not reason.strip():
            raise UserError("--withdraw needs a --reason, which the board shows")
        withdrawn = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        event = {"event": "withdrawn", "submission": found[0], "reason": reason.strip(), "withdrawn": withdrawn}
        journal.add_event(event)
    finally:
        journal.close()


# ---- the board's folder ----


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


# ---- the rules ----


def _rules(name: str, regimes: Mapping[str, Data], settings: Settings) -> dict[str, Any]:
    """What is judged, and how. A judging is resumed only if all of it is the same."""
    return {
        "schema": SCHEMA,
        "name": name,
        "settings": asdict(settings),
        "regimes": {
            regime: {
                "data": {
                    "name": data.train.name,
                    "num_train": len(data.train.labels),
                    "train_sha256": data.train.sha256(),
                },
                "classes": list(data.train.classes),
                "num_test_images": len(data.test.labels),
                "test_images_sha256": images_sha256(data.test.images),
                "side": data.side,
            }
            for regime, data in regimes.items()
        },
    }


def _facts_of(submissions: Mapping[str, Submission]) -> dict[str, dict[str, Any]]:
    return {
        key: {
            **{name: getattr(submission, name) for name in ("sha256", "name", "authors", "version", "licence")},
            "rules": [asdict(rule) for rule in submission.rules],
            "notes": list(submission.notes),
            "refused": submission.refused,
        }
        for key, submission in submissions.items()
    }


def _refuse_other_rules(journal: Journal, rules: Mapping[str, Any], out: Path) -> None:
    """Raises UserError unless the rules are those under which a board was begun."""
    begun = {
        "settings": {**EARLIER, **journal.header["settings"]},
        "regimes": journal.regimes,
        "name": journal.header.get("name", rules["name"]),
    }
    for key, value in begun.items():
        if value != rules[key]:
            raise UserError(f"{key} is not what it was when {out} was begun; judge into a new folder")


def _refuse_other_submissions(journal: Journal, submissions: Mapping[str, Submission], out: Path) -> None:
    """Raises UserError unless the submissions are those with which a board was begun."""

    def without_notes(facts: Mapping[str, Any]) -> dict[str, Any]:  # a resumed judging does not write them again
        return {key: {**each, "notes": None} for key, each in facts.items()}

    if without_notes(journal.header["submissions"]) != without_notes(_facts_of(submissions)):
        raise UserError(f"--resume: submissions is not what it was when {out} was begun; judge into a new folder")


def images_sha256(images: np.ndarray) -> str:
    """Hex digest of the bytes of images uint8 [N, H, W, 3]."""
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()


def read_labels(
    out: Path, tests: Mapping[str, Path], *, side: int | None = 32, fit: str = "crop"
) -> dict[str, np.ndarray]:
    """Reads the test images of a judged board again; returns the labels int64 [N] per training set.

    Args:
        out: folder of the board.
        tests: name of the training set → its test images, of which only the labels may have changed.
        side, fit: as the competition has them.

    Raises:
        UserError: these are not the images that the submissions were judged on.
    """
    journal = Journal(out / "private" / "journal.jsonl")
    journal.close()
    if tests.keys() != journal.regimes.keys():
        names = ", ".join(filter(None, journal.regimes)) or "a single one"
        raise UserError(f"{out} was judged on other training sets ({names}): give its --competition")
    return {name: _labels(out, test, journal.regimes[name], side, fit) for name, test in tests.items()}


def _labels(out: Path, test: Path, regime: Mapping[str, Any], side: int | None, fit: str) -> np.ndarray:
    images, labels, names = load_images(test, need_labels=True, side=side or regime["side"], fit=fit)  # type: ignore[arg-type]
    assert labels is not None
    if images_sha256(images) != regime["test_images_sha256"]:
        raise UserError(f"{test}: these are not the images that {out} was judged on")
    classes = regime["classes"]
    if names is not None and list(names) != classes:
        raise UserError(f"{test}: its classes are not those that {out} was judged on")
    if labels.max() >= len(classes):
        raise UserError(f"{test}: label {labels.max()}, but there are {len(classes)} classes")
    return labels
