"""Scores a judging from its stored predictions, and writes the board. Nothing of a submission is run."""

import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speedtrain.errors import UserError
from speedtrain.files import write_atomic
from speedtrain.judge.board_page import render
from speedtrain.judge.board_tables import as_csv, as_markdown
from speedtrain.judge.control_runs import compare_controls
from speedtrain.judge.journal import Entry, Journal
from speedtrain.judge.ranking import TimeToTarget, Value, make_measure, method, points, rank
from speedtrain.judge.scores import Scored
from speedtrain.judge.settings import Score

SCHEMA = 2

Board = dict[str, Any]


def write_board(out: Path, labels: Mapping[str, np.ndarray]) -> Board:
    """Scores what was judged in `out`, and writes leaderboard.json, .csv, .md and index.html there.

    Args:
        out: folder of the board.
        labels: name of the training set → labels of its test images, int64 [N]. A single one has no name.

    Returns:
        The content of leaderboard.json.

    Raises:
        UserError: nothing was judged in `out`, predictions are missing, or the number of labels is another one.
    """
    journal = Journal(out / "private" / "journal.jsonl")
    try:
        board = _whole_board(out, journal, labels)
    finally:
        journal.close()
    write_atomic(out / "leaderboard.json", (json.dumps(board, indent=2, ensure_ascii=False) + "\n").encode())
    write_atomic(out / "leaderboard.csv", as_csv(board).encode())
    write_atomic(out / "leaderboard.md", as_markdown(board).encode())
    write_atomic(out / "index.html", render(board).encode())
    return board


def _whole_board(out: Path, journal: Journal, labels: Mapping[str, np.ndarray]) -> Board:
    """The board of one training set; or of several, with a board each, and the points over all."""
    header = journal.header
    score = Score(**header["settings"].get("score", {}))
    boards = {name: _score(out, journal, name, labels[name], score) for name in journal.regimes}
    about = {"schema": SCHEMA, "name": header.get("name", ""), "began": header["began"], "speed": header["speed"]}
    about |= {"settings": header["settings"], "score": {"kind": score.kind, "t0": score.t0, "target": score.target}}
    if list(boards) == [""]:
        return {**about, **boards[""], "method": method(score)}
    entries = _by_points(boards)
    how = (
        f"{method(score)} The final rank is by points: rank r on a training set gives 11 - r points, at least 0, as in "
        "the IJCAI 2022 challenge on noisy labels; a submission without a run that can be scored gets none. Equal "
        "points share a rank."
    )
    return {**about, "regimes": boards, "entries": entries, "method": how}


def _by_points(boards: Mapping[str, Board]) -> list[Board]:
    """The submissions by their points over all training sets."""
    by_key: dict[str, Board] = {}
    for name, board in boards.items():
        for entry in board["entries"]:
            facts = ("id", "name", "authors", "version", "licence", "sha256", "refused", "withdrawn", "description")
            whole = by_key.setdefault(
                entry["id"], {"rank": None, **{key: entry[key] for key in facts}, "points": 0, "regimes": {}}
            )
            given = points(entry["rank"], any(_counts(run) for run in entry["runs"]))
            whole["points"] += given
            whole["regimes"][name] = {"rank": entry["rank"], "points": given, "score": entry["score"]}
    entries = sorted(
        by_key.values(),
        key=lambda entry: (_unranked(entry), -entry["points"], entry["id"]),
    )
    for entry in entries:
        if not _unranked(entry):
            better = sum(other["points"] > entry["points"] for other in entries if not _unranked(other))
            entry["rank"] = better + 1
    return entries


def _unranked(entry: Mapping[str, Any]) -> bool:
    return all(regime["rank"] is None for regime in entry["regimes"].values())


def _counts(run: Mapping[str, Any]) -> bool:
    """Whether a run has anything that was scored."""
    return not run["failed"] or bool(run.get("curve"))


def _score(out: Path, journal: Journal, regime: str, labels: np.ndarray, score: Score) -> Board:
    """The board of one training set."""
    facts_of_regime, settings = journal.regimes[regime], journal.header["settings"]
    if len(labels) != facts_of_regime["num_test_images"]:
        raise UserError(f"{len(labels)} test images; this board was judged on {facts_of_regime['num_test_images']}")
    measure = make_measure(score, labels, settings["budget"])
    withdrawn, late = journal.withdrawn, journal.late
    entries: list[Board] = []
    rows_of: dict[str, list[Scored]] = {}
    scored: dict[str, list[Scored]] = {}
    for key, submission in journal.submissions.items():
        runs = _last_attempts(journal, key, regime)
        rows = rows_of[key] = [_scored(out, run, labels, settings["budget"]) for run in runs]
        facts = {
            name: submission[name] for name in ("name", "authors", "version", "licence", "sha256", "rules", "notes")
        }
        entry: Board = {"rank": None, "id": key, **facts, "refused": submission["refused"]}
        entry |= {"withdrawn": withdrawn.get(key), "score": None, "score_interval": None}
        entry |= {"accuracy": 0.0, "interval": [0.0, 0.0], "per_class": [], "versus_leader": None}
        entry |= {"description": _description(out, key)}
        entry["runs"] = [_describe(run, row) for run, row in zip(runs, rows, strict=True)]
        entry["complete"] = bool(submission["refused"]) or len(runs) == settings["runs"]
        if key in late:
            entry["added"] = late[key]["added"]
            control = late[key]["control"] or ""
            again = _last_attempts(journal, control, regime, key)
            beside = [_scored(out, run, labels, settings["budget"]) for run in again]
            entry["control"] = compare_controls(control, rows_of.get(control, []), beside, measure)
        entries.append(entry)
        if rows:
            if key not in withdrawn:
                scored[key] = rows
            _add_score(entry, rows, measure.value(rows), labels, score, settings["budget"], facts_of_regime["classes"])
            if isinstance(measure, TimeToTarget):
                for run, row in zip(entry["runs"], rows, strict=True):
                    reached = measure.reached(row)
                    run["target_reached"] = {"seconds": _finite(reached.seconds), "after": reached.after}
    _tell_twins_apart(entries)

    def order(entry: Board) -> tuple[bool, float, str]:
        value = math.inf if entry["score"] is None else entry["score"]
        return entry["id"] not in scored, -value if measure.larger_is_better else value, entry["id"]

    entries.sort(key=order)
    placed = [entry for entry in entries if entry["id"] in scored]
    for entry, (place, comparison) in zip(placed, rank([scored[e["id"]] for e in placed], measure), strict=True):
        entry["rank"] = place
        entry["versus_leader"] = comparison and {
            key: _finite(value) if isinstance(value, float) else value for key, value in comparison.as_dict().items()
        }
    return {**{key: facts_of_regime[key] for key in ("data", "classes", "num_test_images")}, "entries": entries}


def _add_score(
    entry: Board,
    rows: Sequence[Scored],
    value: Value,
    labels: np.ndarray,
    score: Score,
    budget: float,
    classes: Sequence[str],
) -> None:
    """Adds the score that decides, and the accuracy at the end of the runs with its interval."""
    accuracy = value if score.kind == "accuracy" else make_measure(Score(), labels, budget).value(rows)
    entry |= {"accuracy": accuracy.value, "interval": list(accuracy.interval)}
    entry |= {"score": _finite(value.value), "score_interval": [_finite(bound) for bound in value.interval]}
    per_image = np.mean([row.correct for row in rows], 0)
    entry["per_class"] = [
        float(per_image[labels == label].mean()) if (labels == label).any() else None for label in range(len(classes))
    ]
    for run, number in zip(entry["runs"], value.runs, strict=True):
        run["score"] = _finite(number)


def _finite(value: float) -> float | None:
    """For JSON, which has no infinity: a target that is never reached."""
    return value if math.isfinite(value) else None


def _description(out: Path, key: str) -> str:
    """Where a submission's description lies in the board; boards of before have it as Markdown."""
    name = f"descriptions/{key}.txt"
    return name if (out / name).exists() else f"descriptions/{key}.md"


def _tell_twins_apart(entries: Sequence[Board]) -> None:
    """Adds the beginning of the SHA-256 to names that read alike."""
    read_as = [unicodedata.normalize("NFKC", entry["name"]).casefold() for entry in entries]
    for entry, name in zip(entries, read_as, strict=True):
        if read_as.count(name) > 1:
            entry["name"] = f"{entry['name']} ({entry['sha256'][:8]})"


def _last_attempts(journal: Journal, key: str, regime: str, control_for: str = "") -> list[Entry]:
    """The last attempt at each finished run, with the number of its attempts.

    Args:
        control_for: a late submission; then the runs beside it.
    """
    latest: dict[int, Entry] = {}
    for entry in journal.runs:
        if (
            entry["submission"] == key
            and entry.get("regime", "") == regime
            and entry.get("control_for", "") == control_for
        ):
            latest[entry["run"]] = {**entry, "attempts": latest.get(entry["run"], {"attempts": 0})["attempts"] + 1}
    return [latest[run] for run in sorted(latest) if not latest[run].get("repeat")]


def _scored(out: Path, run: Entry, labels: np.ndarray, budget: float) -> Scored:
    """A run with the labels known."""
    training = run["training"] or {}
    correct = np.zeros(len(labels), dtype=bool) if run["failed"] else correct_images(out, run["predictions"], labels)
    end = min(training.get("wall_seconds") or budget, budget)
    # the last one may have been begun a moment after the end
    copies = [
        (min(copy["seconds"], end), correct_images(out, copy["predictions"], labels))
        for copy in run.get("copies", [])
        if copy["predictions"] is not None
    ]
    return Scored(
        correct,
        copies,
        end,
        run["failed"],
        bool(training.get("limit")),
    )


def correct_images(out: Path, name: str, labels: np.ndarray) -> np.ndarray:
    """Which images stored predictions are right about, bool [N].

    Args:
        out: folder of the board.
        name: of the file with the predictions.
        labels: int64 [N].

    Raises:
        UserError: the file cannot be read.
    """
    path = out / "private" / "predictions" / name
    try:
        predicted = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    return predicted == labels


def _describe(run: Entry, row: Scored) -> Board:
    training, testing = run["training"] or {}, run["testing"] or {}
    curve = [{"seconds": seconds, "accuracy": float(correct.mean())} for seconds, correct in row.curve]
    return {
        "run": run["run"],
        "accuracy": float(row.correct.mean()),
        "failed": run["failed"],
        "verdict": run["verdict"],
        "training_seconds": training.get("wall_seconds"),
        "testing_seconds": testing.get("wall_seconds"),
        "peak_memory": max(training.get("peak_memory", 0), testing.get("peak_memory", 0)),
        "network_attempts": training.get("network_attempts", 0) + testing.get("network_attempts", 0),
        "images_seen": run.get("images_seen"),
        "seed": run["seed"],
        "drifted": run["drifted"],
        "drifted_after": run.get("drifted_after", False),
        "attempts": run["attempts"],
        "by_kernel": training.get("by_kernel", []),
        "log": run["log"],
        **({"node": run["node"]} if "node" in run else {}),
        **({"curve": curve, "copies": _told(run)} if "copies" in run else {}),
    }


def _told(run: Entry) -> Board:
    """What became of a run's copies."""
    problems = [copy["problem"] for copy in run["copies"] if copy["problem"]]
    return {"taken": len(run["copies"]), "left_out": run.get("copies_left_out", 0), "problems": problems}
