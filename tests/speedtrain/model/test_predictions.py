"""Predictions as files."""

import csv
from pathlib import Path

import numpy as np
import pytest
from labelled_images import save_npz, some_images
from small_model import save_model

from speedtrain.model.predict_command import predict_to_file
from speedtrain.model.predictions import Predictions
from speedtrain.model.predictions_file import write_predictions

PROBABILITIES = np.array([[0.2, 0.8], [0.625, 0.375], [0.1, 0.9]], np.float32)
CLASSES = ("cat, big", "dög")


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_table_for_people(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    write_predictions(path, PROBABILITIES, CLASSES, ["a/1.jpg", "b/ü,2.jpg", "3.jpg"], np.array([1, 1, 0]))
    rows = rows_of(path)
    assert list(rows[0]) == ["file", "true", "predicted", "probability", "p(cat, big)", "p(dög)"]
    assert [row["file"] for row in rows] == ["a/1.jpg", "b/ü,2.jpg", "3.jpg"]
    assert [row["true"] for row in rows] == ["dög", "dög", "cat, big"]
    assert [row["predicted"] for row in rows] == ["dög", "cat, big", "dög"]
    assert [float(row["p(dög)"]) for row in rows] == pytest.approx(PROBABILITIES[:, 1])
    assert [float(row["probability"]) for row in rows] == pytest.approx(PROBABILITIES.max(1))
    write_predictions(path, PROBABILITIES, CLASSES, ["a", "b", "c"], each_class=False)
    assert list(rows_of(path)[0]) == ["file", "predicted", "probability"]


def test_images_without_names_have_numbers(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.csv", PROBABILITIES, CLASSES)
    assert [row["image"] for row in rows_of(tmp_path / "p.csv")] == ["0", "1", "2"]
    assert "true" not in rows_of(tmp_path / "p.csv")[0]


def test_unreadable_files_keep_their_place_without_a_prediction(tmp_path: Path) -> None:
    shares = np.vstack([PROBABILITIES[0], [np.nan, np.nan], PROBABILITIES[1:]])
    files, problems = ["a", "x", "b", "c"], {1: "truncated"}
    write_predictions(tmp_path / "p.csv", shares, CLASSES, files, problems=problems)
    rows = rows_of(tmp_path / "p.csv")
    assert [row["file"] for row in rows] == files
    assert [row["predicted"] for row in rows] == ["dög", "", "cat, big", "dög"]
    assert rows[1]["probability"] == rows[1]["p(dög)"] == ""
    write_predictions(tmp_path / "p.npz", shares, CLASSES, files, problems=problems)
    with np.load(tmp_path / "p.npz") as stored:
        assert stored["unreadable"].tolist() == ["x"]
        assert stored["files"].tolist() == ["a", "b", "c"]
        np.testing.assert_array_equal(stored["probabilities"], PROBABILITIES)


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


def test_suffixes_in_capitals(tmp_path: Path) -> None:
    write_predictions(tmp_path / "P.NPZ", PROBABILITIES, CLASSES)
    with np.load(tmp_path / "P.NPZ") as stored:
        assert stored["predicted"].tolist() == [1, 0, 1]
    weights = save_model(tmp_path / "weights.safetensors")
    images = save_npz(tmp_path / "images.npz", images=some_images(2, 32, 32, 3))
    predict_to_file(weights, images, tmp_path / "P.CSV", each_class=True)
    assert list(rows_of(tmp_path / "P.CSV")[0]) == ["image", "predicted", "probability", "p(cat)", "p(dog)", "p(owl)"]


@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_an_error_names_the_path_that_was_given(suffix: str, tmp_path: Path) -> None:
    predictions = Predictions(PROBABILITIES, CLASSES, [None] * 3)
    path = tmp_path / f"missing/p.{suffix}"
    with pytest.raises(FileNotFoundError) as caught:
        predictions.save(path)
    assert str(caught.value) == f"[Errno 2] No such file or directory: '{path}'"
    (tmp_path / f"folder.{suffix}").mkdir()
    with pytest.raises(IsADirectoryError) as of_a_folder:
        predictions.save(tmp_path / f"folder.{suffix}")
    assert str(of_a_folder.value).endswith(f"directory: '{tmp_path / f'folder.{suffix}'}'")


def test_in_python() -> None:
    shares = np.vstack([PROBABILITIES, [np.nan, np.nan]]).astype(np.float32)
    predictions = Predictions(shares, CLASSES, ["a", "b", None, "d"], {3: "truncated"})
    assert len(predictions) == 4
    assert predictions.labels == ["dög", "cat, big", "dög", None]
    assert predictions[1].label == "cat, big"
    assert predictions[1].probability == 0.625
    assert predictions[-1].problem == "truncated"
    assert predictions[-1].label is None
    assert predictions[-1].top(3) == []
    assert predictions[1].top(1) == [("cat, big", 0.625)]
    assert [name for name, _ in predictions[0].top(9)] == ["dög", "cat, big"]  # as many as there are
    assert [prediction.file for prediction in predictions[1:3]] == ["b", None]
    assert [len(best) for best in predictions.top(2)] == [2, 2, 2, 0]
    assert repr(predictions[1]) == "<b: cat, big 62.5%, dög 37.5%>"
    with pytest.raises(IndexError):
        predictions[4]
