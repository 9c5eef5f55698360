"""Sweeps of real runs in real processes, a real kill, and real failures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from speedtrain import UserError, ablate, curve
from speedtrain.ablation import local_engine
from speedtrain.ablation.sweep_folder import record_identity
from speedtrain.ablation.trial import Row, Trial, failed_row

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
        assert result["balanced_accuracy"] == pytest.approx(row["balanced_accuracy"])
        assert result["wall_seconds"] < LONG_ENOUGH + 1  # a kill is late by milliseconds
        assert ("flip" in result["tricks"]) == row["variant"].startswith("plain")
        assert result["seed"] == 0
    assert not processes_of(resumed.out)


def test_failed_trials_are_kept_and_the_sweep_goes_on(resumed: Resumed) -> None:
    """A tenth of a second is too short for any step: such a trial fails and says why."""
    table = trials_of(resumed.out, TOO_SHORT)
    assert list(table["variant"]) == ["plain, 0.1 s", "bare, 0.1 s"]
    assert table[["accuracy", "balanced_accuracy"]].isna().all(axis=None)
    assert table["error"].str.contains("too small").all()


def test_a_finished_sweep_is_read_again_without_training(resumed: Resumed) -> None:
    written = {path: path.stat().st_mtime for path in resumed.out.glob("trials/*/*/done.json")}
    assert len(written) == 4
    table = curve(**resumed.arguments, resume=True)
    assert list(table["seeds"]) == [0, 0, 1, 1]
    assert {path: path.stat().st_mtime for path in written} == written


def test_a_finished_sweep_is_compared_by_the_other_metric_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trials are made up: the higher learning rate is better by accuracy, and worse by balanced accuracy."""
    ran: list[Trial] = []

    def run_trial(trial: Trial, *_: object) -> Row:
        ran.append(trial)
        trial.folder.mkdir(parents=True)
        scores = {"accuracy": trial.config.lr, "balanced_accuracy": 1 - 2 * trial.config.lr}
        return {**failed_row(trial, None), "status": "finished", **scores}

    monkeypatch.setattr(local_engine, "run_trial", run_trial)
    sweep: dict[str, Any] = {"data": "digits", "tricks": [], "vary": {"lr": [0.1, 0.2]}, "seeds": 2, "out": tmp_path}
    sweep["settings"] = {"width": 8, "precision": "fp32", "batch_size": 64}
    (answer,) = ablate(9, **sweep).attrs["comparisons"]
    assert (answer["difference"], answer["seeds"]) == (pytest.approx(0.1), 2)
    assert len(ran) == 4

    done = ran[-1].folder / "done.json"
    earlier = json.loads(done.read_text())
    del earlier["balanced_accuracy"]  # as a version wrote it that did not know it
    done.write_text(json.dumps(earlier))
    table = ablate(9, **sweep, metric="balanced_accuracy", resume=True)
    assert len(ran) == 4
    (answer,) = table.attrs["comparisons"]
    assert (answer["difference"], answer["seeds"]) == (pytest.approx(-0.2), 1)
    assert table["balanced_accuracy"].tolist() == pytest.approx([0.8, 0.6, 0.8, np.nan], nan_ok=True)
    assert "1 of them without balanced accuracy" in (tmp_path / "ablation.md").read_text()


def test_a_search_of_an_earlier_version_was_by_accuracy(tmp_path: Path) -> None:
    record_identity(tmp_path, {"seeds": [0, 1]}, resume=False)  # its metric was not recorded
    record_identity(tmp_path, {"seeds": [0, 1], "metric": "accuracy"}, resume=True)
    with pytest.raises(UserError, match="metric is not what it was"):
        record_identity(tmp_path, {"seeds": [0, 1], "metric": "balanced_accuracy"}, resume=True)


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        ablate(10, "digits", tricks=["flip"], seeds=1, out=tmp_path)
