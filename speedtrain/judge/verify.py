"""For the entrant: what a judge will do, once and with a short budget, and which rules that showed to be kept."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from speedtrain.data import Data
from speedtrain.judge.archive import Rule, read_submission
from speedtrain.judge.board import write_board
from speedtrain.judge.journal import Journal
from speedtrain.judge.judging import Settings, judge


def verify(archive: Path, data: Data, settings: Settings, say: Callable[[str], None]) -> list[Rule]:
    """Judges a submission in a folder of its own, which is removed again.

    Args:
        settings: as for a judging; with a single run.

    Returns:
        Every rule, kept or broken.

    Raises:
        UserError: the file cannot be read, or this machine cannot give what the settings promise.
    """
    rules = list(read_submission(archive).rules)
    with tempfile.TemporaryDirectory(prefix="speedtrain-verify-") as folder:
        out = Path(folder)
        judge([archive], data, out, settings, secret={}, say=say)
        if not all(rule.kept for rule in rules):
            return rules
        (entry,) = write_board(out, data.test.labels)["entries"]
        (run,) = entry["runs"]
        journal = Journal(out / "private" / "journal.jsonl")
        journal.close()
        told = journal.runs[-1]
        log = (out / run["log"]).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-10:]
    training, testing = told["training"], told["testing"]
    stayed = not training["limit"] and not (testing and testing["limit"])
    rules.append(Rule("within the limits", stayed, "" if stayed else run["verdict"]))
    ended = training["reason"] == "exited" and training["returncode"] == 0
    detail = f"{training['wall_seconds']:.1f} s of {settings.budget:g}"
    detail += "" if ended else ", killed at the deadline" if training["reason"] == "deadline" else ", and failed"
    rules.append(Rule("weights saved by the deadline", testing is not None, detail if testing else run["verdict"]))
    rules.append(
        Rule("one class index an image from test.py", not run["failed"], run["verdict"] if run["failed"] else "")
    )
    attempts = run["network_attempts"]
    rules.append(Rule("no attempt to reach the network", not attempts, f"{attempts} attempts" if attempts else ""))
    chance = 1 / len(data.train.classes)
    detail = f"{run['accuracy']:.2%} of {len(data.test.labels)} test images"
    rules.append(Rule("better than guessing", run["accuracy"] > chance, detail))
    if run["failed"]:
        for line in log:
            say(f"  | {line}")
    return rules
