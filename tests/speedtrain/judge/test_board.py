"""Boards: one judged by an earlier version, and the words about an entry."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from speedtrain.cli import main
from speedtrain.judge.summary import summarize

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
    assert json.loads((old / "leaderboard.json").read_text()) == json.loads((OLD / "leaderboard.json").read_text())


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
