"""Sweeps of real runs in real processes, a real kill, and real failures."""

import json
from pathlib import Path

import pandas as pd
import pytest

from speedtrain import UserError, ablate, curve

from .conftest import LONG_ENOUGH, TOO_SHORT, Resumed, processes_of


def trials_of(out: Path, budget: float) -> pd.DataFrame:
    table = pd.read_csv(out / "trials.csv")
    return table[table["variant"].str.endswith(f" {budget:g} s")]


def test_a_killed_sweep_goes_on_where_it_was(resumed: Resumed) -> None:
    assert resumed.kept
    assert {path: path.stat().st_mtime for path in resumed.kept} == resumed.kept
    assert not resumed.processes
    table = trials_of(resumed.out, LONG_ENOUGH)
    assert list(table["variant"]) == [f"plain, {LONG_ENOUGH} s", f"bare, {LONG_ENOUGH} s"]
    assert table["accuracy"].between(0, 1).all()
    for row in table.to_dict("records"):
        result = json.loads((resumed.out / str(row["run"]) / "result.json").read_text())
        assert result["accuracy"] == pytest.approx(row["accuracy"])
        assert result["wall_seconds"] <= LONG_ENOUGH
        assert ("flip" in result["tricks"]) == row["variant"].startswith("plain")
        assert result["seed"] == 0
    assert not processes_of(resumed.out)


def test_failed_trials_are_kept_and_the_sweep_goes_on(resumed: Resumed) -> None:
    """A tenth of a second is too short for any step: such a trial fails and says why."""
    table = trials_of(resumed.out, TOO_SHORT)
    assert list(table["variant"]) == ["plain, 0.1 s", "bare, 0.1 s"]
    assert table["accuracy"].isna().all()
    assert table["error"].str.contains("too small").all()


def test_a_finished_sweep_is_read_again_without_training(resumed: Resumed) -> None:
    written = {path: path.stat().st_mtime for path in resumed.out.glob("trials/*/*/done.json")}
    assert len(written) == 4
    table = curve(**resumed.arguments, resume=True)
    assert list(table["seeds"]) == [0, 0, 1, 1]
    assert {path: path.stat().st_mtime for path in written} == written


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        ablate(10, "digits", tricks=["flip"], seeds=1, out=tmp_path)
