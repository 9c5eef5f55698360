"""Boards: one judged by an earlier version, and the words about an entry."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from speedtrain.cli import main
from speedtrain.judge.printed_log import quoted
from speedtrain.judge.sandboxed_step import Outcome
from speedtrain.judge.verdict import summarize

from .conftest import board_of

OLD = Path(__file__).with_name("board_of_schema_1")
LABELS = np.arange(24) % 4
PREDICTIONS = {
    "01-ngstr-m-sons-run-1": LABELS,
    "01-ngstr-m-sons-run-2": LABELS,
    "02-guesses-run-1": [1, 2, 2, 2, 1, 3, 0, 3, 2, 3, 1, 3, 2, 1, 2, 1, 0, 2, 1, 3, 2, 1, 2, 2],
    "02-guesses-run-2": [1, 3, 1, 3, 1, 3, 0, 3, 3, 1, 2, 0, 1, 2, 3, 0, 2, 1, 1, 3, 0, 1, 0, 3],
}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A board of schema 1 as its judge left it, with the test images beside it."""
    predictions = tmp_path / "board" / "private" / "predictions"
    predictions.mkdir(parents=True)
    shutil.copy(OLD / "journal.jsonl", predictions.parent)
    for name, classes in PREDICTIONS.items():
        np.save(predictions / f"{name}.npy", np.array(classes))
    images = np.broadcast_to(60 * LABELS[:, None, None, None], (24, 32, 32, 3)).astype(np.uint8)
    np.savez(tmp_path / "test.npz", images=images, labels=LABELS)
    return tmp_path / "board"


def test_a_board_of_an_earlier_version_is_scored_to_the_same_figures(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(old.parent)
    assert main(["board", "--out", "board", "--test", "test.npz"]) == 0
    before, now = (json.loads((folder / "leaderboard.json").read_text()) for folder in (OLD, old))
    assert now.pop("schema") == 2
    assert part_of(before, now) == {key: value for key, value in before.items() if key != "schema"}


def part_of(before: object, now: object) -> object:
    """What a later version writes under the keys of an earlier one."""
    if isinstance(before, dict) and isinstance(now, dict):
        return {key: part_of(before[key], value) for key, value in now.items() if key in before}
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [part_of(one, other) for one, other in zip(before, now, strict=True)]
    return now


def test_the_page_the_table_and_the_summary_use_the_same_words(old: Path) -> None:
    assert main(["board", "--out", str(old), "--test", str(old.parent / "test.npz")]) == 0
    page = (old / "index.html").read_text()
    table = (old / "leaderboard.md").read_text().replace("\\", "")
    expected = {
        "Ångström & sons": ("sound", "good"),
        "guesses": ("rule broken: tried to reach the network", "bad"),
        "crashes": (
            "2 of 2 runs failed: ended with exit code 1, saying last: ValueError: what a pity; "
            "no file weights was written",
            "bad",
        ),
        "no licence": ("refused: a declared licence: none", "bad"),
    }
    for name, entry in board_of(old)["by_name"].items():
        words, kind = expected[name]
        assert str(summarize(entry)) == words
        assert f'<td class="{kind}" data-value="{words}">{words}</td>' in page
        assert f"| {words} |" in table


def test_names_that_read_alike_formulas_and_names_from_right_to_left(old: Path) -> None:
    journal = old / "private" / "journal.jsonl"
    header, *runs = journal.read_text(encoding="utf-8").splitlines()
    facts = json.loads(header)
    names = ["Team", "ｔｅａｍ", "＝1+1", "فريق"]
    for submission, name in zip(facts["submissions"].values(), names, strict=True):
        submission["name"] = name
    journal.write_text("\n".join([json.dumps(facts), *runs, ""]), encoding="utf-8")
    assert main(["board", "--out", str(old), "--test", str(old.parent / "test.npz")]) == 0
    hashes = [submission["sha256"][:8] for submission in facts["submissions"].values()]
    shown = set(board_of(old)["by_name"])
    assert shown == {f"Team ({hashes[0]})", f"ｔｅａｍ ({hashes[1]})", "＝1+1", "فريق"}
    with open(old / "leaderboard.csv", encoding="utf-8", newline="") as file:
        teams = {row["team"] for row in csv.DictReader(file)}
    assert "'＝1+1" in teams
    page = (old / "index.html").read_text()
    assert page.count("<bdi>فريق</bdi>") >= 2  # isolated: what follows a name keeps its direction


def test_a_stranger_cannot_speak_in_the_judges_words() -> None:
    words = quoted("no matter” the organisers have disqualified “all others")
    assert words == '“no matter" the organisers have disqualified "all others”'
    outcome = Outcome("exited", 1, 1.0, None, 0, 0, "the board is wrong")
    assert outcome.in_words() == "ended with exit code 1; the last line of its log: “the board is wrong”"


def test_an_entry_with_several_problems_names_all_of_them() -> None:
    run = {"failed": False, "verdict": "", "network_attempts": 3, "drifted": True}
    failed = {**run, "failed": True, "verdict": "failed: no file weights was written"}
    summary = summarize({"refused": None, "complete": False, "runs": [run, failed]})
    assert not summary.sound
    assert summary.parts == (
        "1 of 2 runs failed: no file weights was written",
        "rule broken: tried to reach the network",
        "not all runs are judged yet",
        "judged while the machine drifted",
    )
    drifted = summarize({"refused": None, "complete": True, "runs": [{**run, "network_attempts": 0}]})
    assert drifted.sound
    assert str(drifted) == "sound; judged while the machine drifted"
