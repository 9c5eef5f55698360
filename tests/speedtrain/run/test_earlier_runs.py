"""A run of an earlier version is read, rendered, predicted and replayed.

`schema_1_run` is a run of commit 646d9c2 on the digits, width 2, with three rollbacks and a phase `untold` written into
its result.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from speedtrain import load
from speedtrain.data import load_data
from speedtrain.run.api import replay
from speedtrain.run.report import write_report
from speedtrain.run.result import SCHEMA, read_result


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Path(__file__).with_name("schema_1_run"), tmp_path / "run"))


def test_its_result_is_read_and_rendered(run: Path) -> None:
    result = read_result(run / "result.json")
    assert result["schema"] == SCHEMA
    assert result["rollbacks"] == 3
    assert result["phases"]["unreported"] == 0.25
    assert not {"repairs", "untold"} & (result.keys() | result["phases"].keys())
    with np.load(run / "predictions.npz") as stored:
        probabilities = stored["probabilities"]
    test = load_data("digits", per_class=10).test
    write_report(run, result, images=test.images, labels=test.labels, probabilities=probabilities, classes=test.classes)
    page = (run / "report.html").read_text()
    assert "The loss was not finite 3 times" in page
    assert "unreported" in page
    assert (run / "curve.png").stat().st_size > 10_000


def test_its_weights_predict_what_they_did(run: Path, tmp_path: Path) -> None:
    test = load_data("digits", per_class=10).test
    predictions = load(run).predict(test.images, exact=True)
    with np.load(run / "predictions.npz") as stored:
        np.testing.assert_allclose(predictions.probabilities, stored["probabilities"], atol=1e-4)


@pytest.mark.usefixtures("warm_processes")
def test_it_is_replayed(run: Path, tmp_path: Path) -> None:
    """To the same bits on a processor of the same kind; to about the same accuracy on any."""
    before = read_result(run / "result.json")
    after = replay(run, tmp_path / "again")
    assert after["status"] == "finished"
    assert after["steps"] == before["steps"]
    assert after["accuracy"] == pytest.approx(before["accuracy"], abs=0.05)
