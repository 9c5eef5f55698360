"""Predictions as files."""

import csv
from pathlib import Path

import numpy as np
import pytest

from speedtrain.model.predictions import write_predictions

PROBABILITIES = np.array([[0.2, 0.8], [0.625, 0.375], [0.1, 0.9]], np.float32)
CLASSES = ("cat, big", "dög")


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_table_for_people(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    write_predictions(path, PROBABILITIES, CLASSES, ["a/1.jpg", "b/ü,2.jpg", "3.jpg"], np.array([1, 1, 0]))
    rows = rows_of(path)
    assert list(rows[0]) == ["file", "true", "predicted", "p(cat, big)", "p(dög)"]
    assert [row["file"] for row in rows] == ["a/1.jpg", "b/ü,2.jpg", "3.jpg"]
    assert [row["true"] for row in rows] == ["dög", "dög", "cat, big"]
    assert [row["predicted"] for row in rows] == ["dög", "cat, big", "dög"]
    assert [float(row["p(dög)"]) for row in rows] == pytest.approx(PROBABILITIES[:, 1])


def test_images_without_names_have_numbers(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.csv", PROBABILITIES, CLASSES)
    assert [row["image"] for row in rows_of(tmp_path / "p.csv")] == ["0", "1", "2"]
    assert "true" not in rows_of(tmp_path / "p.csv")[0]


def test_unreadable_files_come_last_without_a_prediction(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.csv", PROBABILITIES, CLASSES, ["a", "b", "c"], unreadable=["d", "e"])
    rows = rows_of(tmp_path / "p.csv")
    assert [row["file"] for row in rows] == ["a", "b", "c", "d", "e"]
    assert [row["predicted"] for row in rows[3:]] == ["", ""]
    assert rows[4]["p(dög)"] == ""
    write_predictions(tmp_path / "p.npz", PROBABILITIES, CLASSES, ["a", "b", "c"], unreadable=["d", "e"])
    with np.load(tmp_path / "p.npz") as stored:
        assert stored["unreadable"].tolist() == ["d", "e"]


def test_arrays_for_programs(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.npz", PROBABILITIES, CLASSES, ["a", "b", "c"])
    with np.load(tmp_path / "p.npz") as stored:
        np.testing.assert_array_equal(stored["probabilities"], PROBABILITIES)
        assert stored["predicted"].tolist() == [1, 0, 1]
        assert stored["classes"].tolist() == list(CLASSES)
        assert stored["files"].tolist() == ["a", "b", "c"]
    write_predictions(tmp_path / "p.npz", PROBABILITIES, CLASSES)
    with np.load(tmp_path / "p.npz") as stored:
        assert "files" not in stored
