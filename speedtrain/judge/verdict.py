"""What became of a submission, in a few words: the same words on the page, in the table and on the terminal."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Summary:
    """What became of a submission.

    Attributes:
        parts: short statements, the most important first.
        sound: whether no rule was broken and all runs are done.
    """

    parts: tuple[str, ...]
    sound: bool

    def __str__(self) -> str:
        return "; ".join(self.parts)


def summarize(entry: Mapping[str, Any]) -> Summary:
    """The summary of an entry of leaderboard.json."""
    if entry["refused"]:
        return Summary((f"refused: {entry['refused']}",), sound=False)
    if entry.get("withdrawn"):
        return Summary((f"withdrawn by the organiser: {entry['withdrawn']}",), sound=False)
    problems = []
    runs = entry["runs"]
    if failed := [run for run in runs if run["failed"]]:
        why = failed[-1]["verdict"].removeprefix("failed: ")
        problems.append(f"{len(failed)} of {count(len(runs), 'run')} failed: {why}")
    if any(run["network_attempts"] for run in runs):
        problems.append("rule broken: tried to reach the network")
    if not entry["complete"]:
        problems.append("not all runs are judged yet")
    remarks = ["judged while the machine drifted"] if any(run["drifted"] for run in runs) else []
    remarks += ["added late"] if entry.get("added") else []
    return Summary((*(problems or ["sound"]), *remarks), sound=not problems)


def count(number: int, what: str) -> str:
    """A number of things: `1 run`, `2 runs`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


SCORE_NAMES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "worst_class": "Worst class",
    "anytime": "Anytime score",
    "time_to_target": "Time to target",
}
"""What the score of each kind is called."""


def score_in_words(value: float | None, kind: str) -> str:
    """A score as a person reads it: `81.20 %`, `34.1 s`, `never`; an area is a number from 0 to 1."""
    if kind == "time_to_target":
        return "never" if value is None else f"{value:.1f}\N{NO-BREAK SPACE}s"
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.4f}" if kind == "anytime" else f"{value:.2%}".replace("%", "\N{NO-BREAK SPACE}%")
