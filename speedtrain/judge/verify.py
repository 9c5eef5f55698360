"""For the entrant: one run with a short budget, as a judge will do it, and what it showed about every rule."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from speedtrain.data import Data
from speedtrain.judge.archive import Rule, read_submission
from speedtrain.judge.board import write_board
from speedtrain.judge.journal import Journal
from speedtrain.judge.judging import judge
from speedtrain.judge.settings import Settings


def verify(archive: Path, data: Data, settings: Settings, report: Callable[[str], None]) -> list[Rule]:
    """Judges a submission in a temporary folder.

    Args:
        archive: the zip.
        data: training and test images.
        settings: as for a judging, with a single run.
        report: called with each line for a person.

    Returns:
        Every rule, kept or broken.

    Raises:
        UserError: the file cannot be read, or this machine cannot give what the settings promise.
    """
    rules = list(read_submission(archive, inspected=False).rules)
    with tempfile.TemporaryDirectory(prefix="speedtrain-verify-") as folder:
        out = Path(folder).absolute()
        judge([archive], data, out, settings, secret={}, report=report)
        if not all(rule.kept for rule in rules):
            return rules
        (entry,) = write_board(out, data.test.labels)["entries"]
        (run,) = entry["runs"]
        journal = Journal(out / "private" / "journal.jsonl")
        journal.close()
        recorded = journal.runs[-1]
        log = (out / run["log"]).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-10:]
    training, testing = recorded["training"], recorded["testing"]
    within = not training["limit"] and not (testing and testing["limit"])
    rules.append(Rule("within the limits", within, "" if within else run["verdict"]))
    ended = training["reason"] == "exited" and training["returncode"] == 0
    detail = f"{training['wall_seconds']:.1f} s of {settings.budget:g}"
    detail += "" if ended else ", killed at the deadline" if training["reason"] == "deadline" else ", and failed"
    rules.append(Rule("weights saved by the deadline", testing is not None, detail if testing else run["verdict"]))
    rules.append(
        Rule("one class index per image from test.py", not run["failed"], run["verdict"] if run["failed"] else "")
    )
    attempts = run["network_attempts"]
    rules.append(Rule("no attempt to reach the network", not attempts, f"{attempts} attempts" if attempts else ""))
    chance = 1 / len(data.train.classes)
    detail = f"{run['accuracy']:.2%} of {len(data.test.labels)} test images"
    rules.append(Rule("better than guessing", run["accuracy"] > chance, detail))
    if run["failed"]:
        for line in log:
            report(f"  | {line}")
    return rules
