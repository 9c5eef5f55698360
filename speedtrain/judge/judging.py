"""A judging from its beginning to its end: read the submissions, check the machine, open the board, take turns."""

import secrets
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from speedtrain.data import Data
from speedtrain.data.photograph import Fit
from speedtrain.errors import UserError
from speedtrain.judge import submission_files
from speedtrain.judge.archive import Rule, Submission, read_submission
from speedtrain.judge.board_folder import (
    board_key,
    has_begun,
    keep_zip,
    open_board,
    write_descriptions,
    write_training_images,
)
from speedtrain.judge.cluster import Cluster
from speedtrain.judge.contest_rules import (
    facts_of,
    labels_sha256,
    refuse_other_rules,
    refuse_other_submissions,
    rules_of,
)
from speedtrain.judge.journal import Journal
from speedtrain.judge.late_entries import add_late, stored_submissions
from speedtrain.judge.settings import Settings
from speedtrain.judge.this_machine import ThisMachine
from speedtrain.judge.turns import Turns

Engine = Literal["local", "ray"]


def judge(
    archives: Sequence[Path],
    regimes: Mapping[str, Data],
    out: Path,
    settings: Settings,
    *,
    secret: Mapping[str, Path],
    name: str = "",
    fit: Fit = "crop",
    resume: bool = False,
    late: bool = False,
    engine: Engine = "local",
    address: str | None = None,
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
        fit: what became of images that are not square. Default: crop.
        resume: go on where an interrupted judging with the same arguments stopped.
        late: the zips join a board that was judged before, under the same rules; each takes turns with a submission
            that was there, so that a machine that has changed is seen.
        engine: where the runs are: `local` (this machine) or `ray` (a Ray cluster). Default: local.
        address: of the cluster; see `Cluster`.
        report: called with each line for a person.

    Raises:
        UserError: bad input, found before anything is run; or this machine failed before the first instruction of a
            submission, in which case that run is not recorded.
    """
    begun = has_begun(out)
    if late and not begun:
        raise UserError(f"--add: nothing was judged in {out} yet; judge the first submissions without --add")
    submissions = _read_all(archives, settings, inspected=not (resume and begun))
    here = {**secret, "--out": out}
    with Cluster(settings, address) if engine == "ray" else ThisMachine(settings, here) as ready:
        private = open_board(out, resume or late, begun)
        if resume and not begun:
            report(f"{out}: nothing was judged here yet; beginning now")
        if settings.sandbox == "none":
            report("warning: --sandbox none: the submissions can read and write whatever you can, and use the network")
        rules = rules_of(name, regimes, settings, fit)
        if begun:
            journal = Journal(private / "journal.jsonl")
        else:
            began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            header = {**rules, "submissions": facts_of(submissions)}
            header |= {"began": began, "speed": ready.speed, "seed": secrets.randbelow(1 << 31)}
            header["test_labels"] = labels_sha256(regimes)
            journal = Journal(private / "journal.jsonl", header)
        try:
            refuse_other_rules(journal, rules, out)
            if journal.header.get("test_labels", labels_sha256(regimes)) != labels_sha256(regimes):
                report("the labels of the test images are not those when the board was begun: all are scored by these")
            if late:
                run = add_late(journal, private, submissions, settings, report)
            else:
                refuse_other_submissions(journal, submissions, out)
                for key, submission in submissions.items():
                    keep_zip(private, key, submission)
                write_descriptions(out, submissions)
                run = stored_submissions(journal, private, settings, submissions)
            write_training_images(out, regimes)
            for note in (note for data in regimes.values() for note in data.notes):
                report(note)
            for facts in journal.submissions.values():
                if facts["refused"]:
                    report(f"{facts['name']}: refused ({facts['refused']})")
            turns = Turns(run, regimes, out, settings, journal, report)
            if turns.left:
                ready.prepare(turns)
            ready.run_all(turns)
        finally:
            journal.close()
            with suppress(subprocess.CalledProcessError):  # what is left will be cleared before the next run, or told
                submission_files.clear(private / "work")


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
        submissions[board_key(number, submission)] = submission
    return submissions
