"""For the entrant: one run, as a judge will do it, and what it showed about every rule and for the board."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from speedtrain.data import Data
from speedtrain.judge.archive import Rule, read_submission
from speedtrain.judge.board import write_board
from speedtrain.judge.journal import Journal
from speedtrain.judge.judging import judge
from speedtrain.judge.settings import Settings
from speedtrain.judge.verdict import SCORE_NAMES, score_in_words


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal showed.

    Attributes:
        rules: every rule, kept or broken.
        lines: what the board would show; empty if the submission was refused.
    """

    rules: list[Rule]
    lines: list[str]


def verify(archive: Path, regimes: Mapping[str, Data], settings: Settings, report: Callable[[str], None]) -> Rehearsal:
    """Judges a submission in a temporary folder, with a single run.

    Args:
        archive: the zip.
        regimes: name → training and test images.
        settings: as for a judging.
        report: called with each line for a person.

    Raises:
        UserError: the file cannot be read, or this machine cannot give what the settings promise.
    """
    rules = list(read_submission(archive, settings.rules, inspected=False).rules)
    with tempfile.TemporaryDirectory(prefix="speedtrain-verify-") as folder:
        out = Path(folder).absolute()
        judge([archive], regimes, out, replace(settings, runs=1), secret={}, report=report)
        if not all(rule.kept for rule in rules):
            return Rehearsal(rules, [])
        board = write_board(out, {name: data.test.labels for name, data in regimes.items()})
        journal = Journal(out / "private" / "journal.jsonl")
        journal.close()
        lines: list[str] = []
        for name, data in regimes.items():
            (entry,) = (board["regimes"][name] if "regimes" in board else board)["entries"]
            recorded = next(run for run in reversed(journal.runs) if run.get("regime", "") == name)
            prefix = f"{name}: " if name else ""
            rules += _rules_of_run(entry["runs"][0], recorded, data, settings, prefix)
            lines += [f"{prefix}{line}" for line in _shown(entry, settings)]
            if entry["runs"][0]["failed"]:
                log = (out / entry["runs"][0]["log"]).read_text(encoding="utf-8", errors="replace")
                for line in log.strip().splitlines()[-10:]:
                    report(f"  | {line}")
    return Rehearsal(rules, lines)


def _rules_of_run(
    run: Mapping[str, Any], recorded: Mapping[str, Any], data: Data, settings: Settings, prefix: str
) -> list[Rule]:
    """The rules that a run shows."""
    training, testing = recorded["training"], recorded["testing"]
    within = not training["limit"] and not (testing and testing["limit"])
    rules = [Rule(f"{prefix}within the limits", within, "" if within else run["verdict"])]
    ended = training["reason"] == "exited" and training["returncode"] == 0
    detail = f"{training['wall_seconds']:.1f} s of {settings.budget:g}"
    detail += "" if ended else ", killed at the deadline" if training["reason"] == "deadline" else ", and failed"
    saved = Rule(f"{prefix}weights saved by the deadline", testing is not None, detail if testing else run["verdict"])
    failed = run["failed"]
    predicted = Rule(f"{prefix}one class index per image from test.py", not failed, run["verdict"] if failed else "")
    rules += [saved, predicted]
    attempts = run["network_attempts"]
    detail = f"{attempts} attempts" if attempts else ""
    rules.append(Rule(f"{prefix}no attempt to reach the network", not attempts, detail))
    if copies := run.get("copies"):
        problems = copies["problems"]
        detail = f"{copies['taken']} copies beside the end; {copies['left_out']} instants without a whole file"
        detail = problems[0] if problems else detail
        rules.append(Rule(f"{prefix}whole weights whenever the judge copies them", not problems, detail))
    chance = 1 / len(data.train.classes)
    detail = f"{run['accuracy']:.2%} of {len(data.test.labels)} test images"
    rules.append(Rule(f"{prefix}better than guessing", run["accuracy"] > chance, detail))
    return rules


def _shown(entry: Mapping[str, Any], settings: Settings) -> list[str]:
    """What the board would show of it, in lines."""
    kind = settings.score.kind
    lines = []
    for point in entry["runs"][0].get("curve", []):
        bar = "█" * round(40 * point["accuracy"])
        lines.append(f"{point['seconds']:8.1f} s  {point['accuracy']:7.2%}  {bar}")
    lines.append(f"{SCORE_NAMES[kind]}: {score_in_words(entry['score'], kind)}")
    return lines
