"""A real, small curve, and its arithmetic."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from speedtrain import UserError
from speedtrain.ablation.curve import curve
from speedtrain.ablation.curve_report import Point, summarise_points
from speedtrain.cli import main

from .conftest import LONG_ENOUGH, TOO_SHORT, Resumed


def test_a_curve_of_two_recipes(resumed: Resumed) -> None:
    table = pd.read_csv(resumed.out / "curve.csv")
    assert list(table["recipe"]) == ["plain", "bare"] * 2
    assert list(table["budget"]) == [TOO_SHORT] * 2 + [LONG_ENOUGH] * 2
    trials = pd.read_csv(resumed.out / "trials.csv")
    assert table["accuracy"].tolist() == pytest.approx(trials["accuracy"].tolist(), nan_ok=True)
    trained = table["budget"] == LONG_ENOUGH
    assert (table["width"][trained] == 8).all()
    for run, recipe in zip(trials["run"][trained], ("plain", "bare"), strict=True):
        result = json.loads((resumed.out / run / "result.json").read_text())
        assert ("flip" in result["tricks"]) == (recipe == "plain")
        assert result["budget_seconds"] == LONG_ENOUGH
        assert result["accuracy"] is not None  # without any trick too
    assert (resumed.out / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "plain" in (resumed.out / "curve.html").read_text()


def test_the_interval_is_student_s() -> None:
    scores = [0.70, 0.74, 0.72, 0.71]
    rows = [
        {"variant": "a", "seed": seed, "accuracy": score, "networks": 1, "width": 8}
        for seed, score in enumerate(scores)
    ]
    columns = ["variant", "seed", "accuracy", "networks", "width", "epochs", "images_per_second"]
    (row,) = summarise_points(pd.DataFrame(rows, columns=columns), {"a": Point("a", 9.0)}).to_dict("records")
    expected = stats.ttest_1samp(scores, 0.0).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
    assert row["sd"] == pytest.approx(np.std(scores, ddof=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budgets", "a,b"], "budget must be"),
        (["--budgets", "15,30,15"], "15 is given twice"),
        (["--budgets", "9", "--budget", "9"], "--budgets"),
        (["--budgets", "9", "--recipes", "outo"], "did you mean 'auto'"),
        (["--budgets", "9", "--seeds", "0"], "--seeds"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["curve", "--data", "digits", "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_no_budget() -> None:
    with pytest.raises(UserError, match="no budget"):
        curve([], "digits")
