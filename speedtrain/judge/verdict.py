"""What became of a submission, in a few words: the same words on the page, in the table and on the terminal."""

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
    return Summary((*(problems or ["sound"]), *remarks), sound=not problems)


def count(number: int, what: str) -> str:
    """A number of things: `1 run`, `2 runs`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
