"""Scores a judging from its stored predictions, and writes the board. Nothing of a submission is run."""

import csv
import io
import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speedtrain.errors import UserError
from speedtrain.files import write_atomic
from speedtrain.judge.journal import Entry, Journal
from speedtrain.judge.page import render
from speedtrain.judge.ranking import METHOD, rank, score
from speedtrain.judge.verdict import summarize
from speedtrain.view import markdown

SCHEMA = 1

Board = dict[str, Any]


def write_board(out: Path, labels: np.ndarray) -> Board:
    """Scores what was judged in `out`, and writes leaderboard.json, .csv, .md and index.html there.

    Args:
        out: folder of the board.
        labels: labels of the test images, int64 [N].

    Returns:
        The content of leaderboard.json.

    Raises:
        UserError: nothing was judged in `out`, predictions are missing, or the number of labels is another one.
    """
    journal = Journal(out / "private" / "journal.jsonl")
    try:
        board = _score(out, journal, labels)
    finally:
        journal.close()
    write_atomic(out / "leaderboard.json", (json.dumps(board, indent=2, ensure_ascii=False) + "\n").encode())
    write_atomic(out / "leaderboard.csv", _as_csv(board).encode())
    write_atomic(out / "leaderboard.md", _as_markdown(board).encode())
    write_atomic(out / "index.html", render(board).encode())
    return board


def _description(out: Path, key: str) -> str:
    """Where a submission's description lies in the board; boards of before have it as Markdown."""
    name = f"descriptions/{key}.txt"
    return name if (out / name).exists() else f"descriptions/{key}.md"


def _score(out: Path, journal: Journal, labels: np.ndarray) -> Board:
    header = journal.header
    if len(labels) != header["num_test_images"]:
        raise UserError(f"{len(labels)} test images; this board was judged on {header['num_test_images']}")
    entries: list[Board] = []
    correct: dict[str, np.ndarray] = {}
    for key, submission in header["submissions"].items():
        runs = _last_attempts(journal, key)
        rows = [_correct_images(out, run, labels) for run in runs]
        facts = {
            name: submission[name] for name in ("name", "authors", "version", "licence", "sha256", "rules", "notes")
        }
        entry = {"rank": None, "id": key, **facts, "refused": submission["refused"]}
        entry |= {"accuracy": 0.0, "interval": [0.0, 0.0], "per_class": [], "versus_leader": None}
        entry |= {"description": _description(out, key)}
        entry["runs"] = [_describe(run, row) for run, row in zip(runs, rows, strict=True)]
        entry["complete"] = bool(submission["refused"]) or len(runs) == header["settings"]["runs"]
        entries.append(entry)
        if rows:
            correct[key] = np.stack(rows)
            scored = score(correct[key], labels, len(header["classes"]))
            entry |= {"accuracy": scored.accuracy, "interval": list(scored.interval), "per_class": scored.per_class}
    _tell_twins_apart(entries)
    entries.sort(key=lambda entry: (entry["id"] not in correct, -entry["accuracy"], entry["id"]))
    placed = [entry for entry in entries if entry["id"] in correct]
    for entry, (place, comparison) in zip(placed, rank([correct[entry["id"]] for entry in placed]), strict=True):
        entry["rank"] = place
        entry["versus_leader"] = comparison and comparison.as_dict()
    return {
        "schema": SCHEMA,
        **{key: header[key] for key in ("began", "settings", "data", "classes", "num_test_images", "speed")},
        "method": METHOD,
        "entries": entries,
    }


def _tell_twins_apart(entries: Sequence[Board]) -> None:
    """Adds the beginning of the SHA-256 to names that read alike."""
    read_as = [unicodedata.normalize("NFKC", entry["name"]).casefold() for entry in entries]
    for entry, name in zip(entries, read_as, strict=True):
        if read_as.count(name) > 1:
            entry["name"] = f"{entry['name']} ({entry['sha256'][:8]})"


def _last_attempts(journal: Journal, key: str) -> list[Entry]:
    """The last attempt at each finished run, with the number of its attempts."""
    latest: dict[int, Entry] = {}
    for entry in journal.runs:
        if entry["submission"] == key:
            latest[entry["run"]] = {**entry, "attempts": latest.get(entry["run"], {"attempts": 0})["attempts"] + 1}
    return [latest[run] for run in sorted(latest) if not latest[run]["repeat"]]


def _correct_images(out: Path, run: Entry, labels: np.ndarray) -> np.ndarray:
    """Which images a run predicted correctly, bool [N]; none if the run failed."""
    if run["failed"]:
        return np.zeros(len(labels), dtype=bool)
    path = out / "private" / "predictions" / run["predictions"]
    try:
        predicted = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    return predicted == labels


def _describe(run: Entry, correct: np.ndarray) -> Board:
    training, testing = run["training"] or {}, run["testing"] or {}
    return {
        "run": run["run"],
        "accuracy": float(correct.mean()),
        "failed": run["failed"],
        "verdict": run["verdict"],
        "training_seconds": training.get("wall_seconds"),
        "testing_seconds": testing.get("wall_seconds"),
        "peak_memory": max(training.get("peak_memory", 0), testing.get("peak_memory", 0)),
        "network_attempts": training.get("network_attempts", 0) + testing.get("network_attempts", 0),
        "images_seen": run.get("images_seen"),
        "seed": run["seed"],
        "drifted": run["drifted"],
        "attempts": run["attempts"],
        "log": run["log"],
    }


def _as_csv(board: Board) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    head = ["rank", "team", "authors", "accuracy", "low", "high", "runs", "failed", "mean_training_seconds", "refused"]
    rows.writerow([*head, *(f"run_{number}" for number in range(1, board["settings"]["runs"] + 1)), "sha256"])
    for entry in board["entries"]:
        runs = {run["run"]: run for run in entry["runs"]}
        seconds = [run["training_seconds"] for run in entry["runs"] if run["training_seconds"] is not None]
        row = [entry["rank"] or "", _no_formula(entry["name"]), _no_formula(entry["authors"])]
        row += [f"{value:.5f}" for value in (entry["accuracy"], *entry["interval"])]
        row += [len(runs), sum(run["failed"] for run in entry["runs"])]
        row += [f"{np.mean(seconds):.2f}" if seconds else "", _no_formula(entry["refused"] or "")]
        for number in range(1, board["settings"]["runs"] + 1):
            row.append(f"{runs[number]['accuracy']:.5f}" if number in runs else "")
        rows.writerow([*row, entry["sha256"]])
    return text.getvalue()


def _no_formula(text: str) -> str:
    """Text that a spreadsheet shows as text, and does not compute as a formula, full-width signs included."""
    begins = unicodedata.normalize("NFKC", text).lstrip()[:1]
    return f"'{text}" if begins in ("=", "+", "-", "@", "\N{MINUS SIGN}") else text


def _as_markdown(board: Board) -> str:
    settings = board["settings"]
    head = ["rank", "team", "accuracy", "95 % interval", "runs", "verdict"]
    rows = []
    for entry in board["entries"]:
        low, high = entry["interval"]
        runs = ", ".join("failed" if run["failed"] else f"{run['accuracy']:.2%}" for run in entry["runs"])
        rows.append(
            [
                str(entry["rank"] or "–"),
                f"[{markdown.escape(entry['name'])}]({entry['description']})",
                f"{entry['accuracy']:.2%}",
                f"{low:.2%} to {high:.2%}" if entry["runs"] else "–",
                runs or "–",
                markdown.escape(str(summarize(entry))),
            ]
        )
    lines = ["# Leaderboard", ""]
    lines += [f"{settings['runs']} runs of {settings['budget']:g} s each; {board['num_test_images']} test images.", ""]
    lines += markdown.table(head, rows, align=["right", "left", "right", "left", "left", "left"])
    return "\n".join([*lines, "", board["method"], ""])
