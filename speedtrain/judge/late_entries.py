"""What happens to a board after its judging: late submissions, and submissions that are withdrawn."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from speedtrain.errors import UserError
from speedtrain.judge.archive import Submission, read_submission
from speedtrain.judge.board_folder import board_key, keep_zip, write_descriptions, zip_file
from speedtrain.judge.contest_rules import facts_of
from speedtrain.judge.journal import Journal
from speedtrain.judge.settings import Settings


def add_late(
    journal: Journal, private: Path, given: Mapping[str, Submission], settings: Settings, report: Callable[[str], None]
) -> dict[str, Submission]:
    """Records late submissions; returns all submissions of the board that are run.

    One that is on the board already is passed over, so that an interrupted command can be typed again.

    Args:
        journal: of the board.
        private: the board's folder for what is not published.
        given: the late submissions.
        settings: the rules of the judging.
        report: called with each line for a person.

    Raises:
        UserError: a submission of before was not kept, so that nothing can be compared.
    """
    stored_submissions(journal, private, settings)  # before anything is recorded
    for submission in given.values():
        there = {facts["sha256"]: key for key, facts in journal.submissions.items()}
        if key := there.get(submission.sha256):
            report(f"{submission.name}: is on the board already, as {key}")
            continue
        key = board_key(len(journal.submissions) + 1, submission)
        control = None if submission.refused else _control(journal, settings)
        keep_zip(private, key, submission)
        write_descriptions(private.parent, {key: submission})
        facts = facts_of({key: submission})[key]
        added = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        journal.add_event({"event": "added", "submission": key, "control": control, "added": added, "facts": facts})
    return stored_submissions(journal, private, settings)


def _control(journal: Journal, settings: Settings) -> str | None:
    """The first submission whose runs are all done and none failed, to be run again; None where there is none."""
    wanted = settings.runs * len(journal.regimes)
    for key, facts in journal.header["submissions"].items():
        runs = [run for run in journal.runs if run["submission"] == key and "control_for" not in run]
        done = [run for run in runs if not run.get("repeat")]
        sound = len(done) == wanted and not any(run["failed"] for run in done)
        if sound and not facts["refused"] and key not in journal.withdrawn:
            return str(key)
    return None


def stored_submissions(
    journal: Journal, private: Path, settings: Settings, given: Mapping[str, Submission] | None = None
) -> dict[str, Submission]:
    """The submissions of a board that are run, as they were kept.

    Args:
        journal: of the board.
        private: the board's folder for what is not published.
        settings: the rules of the judging.
        given: submissions that are at hand, by their names on the board. Default: none.

    Raises:
        UserError: one was not kept, or is not what was judged.
    """
    found = {}
    for key, facts in journal.submissions.items():
        if facts["refused"]:
            continue
        if given and key in given:
            found[key] = given[key]
            continue
        path = zip_file(private, key)
        if not path.exists():
            raise UserError(f"{path}: is missing; judge --resume with all submissions keeps them again")
        found[key] = read_submission(path, settings.rules, inspected=False)
        if found[key].sha256 != facts["sha256"]:
            raise UserError(f"{path}: is not the submission that was judged")
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
