"""The board as tables: for spreadsheets, and in Markdown."""

import csv
import io
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np

from speedtrain.judge.verdict import SCORE_NAMES, score_in_words, summarize
from speedtrain.view import markdown

Board = Mapping[str, Any]


def as_csv(board: Board) -> str:
    """A board, as leaderboard.json holds it, as CSV: a row per submission and training set."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    runs, several = board["settings"]["runs"], "regimes" in board
    head = ["rank", "team", "authors", "accuracy", "low", "high", "runs", "failed", "mean_training_seconds", "refused"]
    head += [*(f"run_{number}" for number in range(1, runs + 1)), "sha256"]
    kind = _kind(board)
    extra = ["score", "withdrawn"] if kind != "accuracy" or several else ["withdrawn"]
    rows.writerow([*(["training_set", "points", "final_rank"] if several else []), *head, *extra])
    for name, part in (board["regimes"] if several else {"": board}).items():
        for entry in part["entries"]:
            begins: list[Any] = []
            if several:
                whole = next(each for each in board["entries"] if each["id"] == entry["id"])
                begins = [name, whole["regimes"][name]["points"], whole["rank"] or ""]
            ends = ([_number(entry["score"])] if "score" in extra else []) + [_no_formula(entry["withdrawn"] or "")]
            rows.writerow([*begins, *_row(entry, runs), *ends])
    return text.getvalue()


def _row(entry: Mapping[str, Any], num_runs: int) -> list[Any]:
    runs = {run["run"]: run for run in entry["runs"]}
    seconds = [run["training_seconds"] for run in entry["runs"] if run["training_seconds"] is not None]
    row = [entry["rank"] or "", _no_formula(entry["name"]), _no_formula(entry["authors"])]
    row += [f"{value:.5f}" for value in (entry["accuracy"], *entry["interval"])]
    row += [len(runs), sum(run["failed"] for run in entry["runs"])]
    row += [f"{np.mean(seconds):.2f}" if seconds else "", _no_formula(entry["refused"] or "")]
    row += [f"{runs[number]['accuracy']:.5f}" if number in runs else "" for number in range(1, num_runs + 1)]
    return [*row, entry["sha256"]]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"


def _no_formula(text: str) -> str:
    """Text that a spreadsheet shows as text, and does not compute as a formula, full-width signs included."""
    begins = unicodedata.normalize("NFKC", text).lstrip()[:1]
    return f"'{text}" if begins in ("=", "+", "-", "@", "\N{MINUS SIGN}") else text


def _kind(board: Board) -> str:
    return str(board["score"]["kind"])


def as_markdown(board: Board) -> str:
    """A board, as leaderboard.json holds it, in Markdown."""
    settings = board["settings"]
    lines = [f"# {markdown.escape(board['name']) or 'Leaderboard'}", ""]
    if "regimes" not in board:
        lines += [f"{settings['runs']} runs of {settings['budget']:g} s each; {board['num_test_images']} test images."]
        lines += ["", *_ranking(board["entries"], _kind(board)), "", board["method"], ""]
        return "\n".join(lines)
    lines += [
        f"{settings['runs']} runs of {settings['budget']:g} s on each of {len(board['regimes'])} training sets.",
        "",
    ]
    names = list(board["regimes"])
    head = ["rank", "team", "points", *map(markdown.escape, names)]
    rows = []
    for entry in board["entries"]:
        each = [entry["regimes"][name] for name in names]
        cells = [f"{regime['points']} (rank {regime['rank'] or '–'})" for regime in each]
        link = f"[{markdown.escape(entry['name'])}]({entry['description']})"
        rows.append([str(entry["rank"] or "–"), link, str(entry["points"]), *cells])
    lines += markdown.table(head, rows, align=["right", "left", "right", *["right"] * len(names)])
    for name, part in board["regimes"].items():
        lines += ["", f"## {markdown.escape(name)}", "", f"{part['num_test_images']} test images.", ""]
        lines += _ranking(part["entries"], _kind(board))
    return "\n".join([*lines, "", board["method"], ""])


def _ranking(entries: list[Mapping[str, Any]], kind: str) -> list[str]:
    """The table of one training set."""
    head = ["rank", "team", "accuracy", "95 % interval", "runs", "verdict"]
    if kind != "accuracy":
        head[2:4] = [SCORE_NAMES[kind].lower(), "interval", "accuracy at the end"]
    rows = []
    for entry in entries:
        runs = ", ".join("failed" if run["failed"] else f"{run['accuracy']:.2%}" for run in entry["runs"])
        low, high = entry["interval"]
        row = [str(entry["rank"] or "–"), f"[{markdown.escape(entry['name'])}]({entry['description']})"]
        if kind != "accuracy":
            interval = entry["score_interval"]
            row += [score_in_words(entry["score"], kind) if entry["runs"] else "–"]
            row += [" to ".join(score_in_words(bound, kind) for bound in interval) if interval else "–"]
            row += [f"{entry['accuracy']:.2%}"]
        else:
            row += [f"{entry['accuracy']:.2%}", f"{low:.2%} to {high:.2%}" if entry["runs"] else "–"]
        rows.append([*row, runs or "–", markdown.escape(str(summarize(entry)))])
    align = ["right", "left", "right", "left", *(["right"] if kind != "accuracy" else []), "left", "left"]
    return markdown.table(head, rows, align=align)
