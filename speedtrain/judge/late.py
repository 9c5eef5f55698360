"""What happens to a board after its judging: late submissions, and submissions that are withdrawn."""

import time
from collections.abc import Mapping
from pathlib import Path

from speedtrain.errors import UserError
from speedtrain.judge.archive import Submission, read_submission
from speedtrain.judge.board_folder import board_key, keep_zip
from speedtrain.judge.contest_rules import facts_of
from speedtrain.judge.journal import Journal
from speedtrain.judge.settings import Settings


def add_late(
    journal: Journal, private: Path, submissions: Mapping[str, Submission], settings: Settings
) -> dict[str, Submission]:
    """Records late submissions, those that are not there yet; returns all submissions of the board."""
    there = {facts["sha256"]: key for key, facts in journal.submissions.items()}
    for submission in submissions.values():
        if submission.sha256 in there:
            if there[submission.sha256] not in {event["submission"] for event in journal.events("added")}:
                raise UserError(f"--add: {submission.name} is on the board already, as {there[submission.sha256]}")
            continue  # its judging was interrupted
        key = board_key(len(journal.submissions) + 1, submission)
        control = None if submission.refused else _control(journal)
        keep_zip(private, key, submission)
        facts = facts_of({key: submission})[key]
        added = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        journal.add_event({"event": "added", "submission": key, "control": control, "added": added, "facts": facts})
    return stored_submissions(journal, private, settings)


def _control(journal: Journal) -> str | None:
    """The first submission whose runs are all done and none failed, to be run again; None where there is none."""
    gone = {event["submission"] for event in journal.events("withdrawn")}
    for key, facts in journal.header["submissions"].items():
        runs = [run for run in journal.runs if run["submission"] == key and not run["repeat"]]
        if not facts["refused"] and key not in gone and runs and not any(run["failed"] for run in runs):
            return str(key)
    return None


def stored_submissions(journal: Journal, private: Path, settings: Settings) -> dict[str, Submission]:
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
