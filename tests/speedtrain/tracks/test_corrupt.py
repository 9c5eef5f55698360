"""Tracks: counts and labels against counts of our own, files byte by byte, bad input in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_images import error_of, some_images
from scipy import stats
from torch.nn import functional as F

from speedtrain.cli import main
from speedtrain.config import resolve
from speedtrain.data import load_data
from speedtrain.network.classifier import make_tricks
from speedtrain.submission.package import package
from speedtrain.tracks.corrupt import corrupt
from tricks import ForwardCorrection

CLASSES, EACH = 5, 200


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """1,000 images of five classes, each image with its number in its pixels."""
    images = some_images(CLASSES * EACH, 4, 4, 3)
    images[:, 0, 0, :2] = np.stack(np.divmod(np.arange(CLASSES * EACH), 256), axis=1)
    labels = np.random.default_rng(3).permutation(np.repeat(np.arange(CLASSES), EACH))
    path = tmp_path / "clean.npz"
    np.savez(path, images=images, labels=labels, classes=np.array(["ant", "bee", "cat", "dog", "eel"]))
    return path


def load(path: Path) -> dict[str, Any]:
    with np.load(path) as stored:
        return dict(stored)


def test_each_annotator_errs_by_itself(clean: Path, tmp_path: Path) -> None:
    track = corrupt(clean, tmp_path / "t.npz", noise="symmetric:0.3", annotators=4)
    votes, true = load(tmp_path / "t.npz")["labels"], load(tmp_path / "t.truth.npz")["labels"]
    wrong = votes != true[:, None]
    assert votes.shape == (1000, 4)
    assert wrong.sum(axis=0).tolist() == 4 * [300]
    assert track.confusion.sum() - track.confusion.trace() == 1200
    for one in range(4):  # two annotators are both wrong on 9 % of the images, if neither knows of the other
        for other in range(one):
            both = int((wrong[:, one] & wrong[:, other]).sum())
            assert stats.hypergeom(1000, 300, 300).cdf(both) == pytest.approx(0.5, abs=0.4999)
    data = load_data(tmp_path / "t.npz")
    assert data.annotators is not None
    assert data.annotators.noise == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize("imbalance", [1.5, 10, 100, 200])
def test_a_long_tail_has_the_counts_of_the_formula(imbalance: float, clean: Path, tmp_path: Path) -> None:
    corrupt(clean, tmp_path / "t.npz", imbalance=imbalance)
    track, truth, source = load(tmp_path / "t.npz"), load(tmp_path / "t.truth.npz"), load(clean)
    expected = [int(EACH * imbalance ** (-c / (CLASSES - 1)) + 1e-9) for c in range(CLASSES)]
    assert np.bincount(track["labels"], minlength=CLASSES).tolist() == expected
    numbers = 256 * track["images"][:, 0, 0, 0].astype(int) + track["images"][:, 0, 0, 1]
    assert np.array_equal(numbers, truth["indices"])
    assert len(set(numbers.tolist())) == len(numbers)
    assert np.array_equal(track["images"], source["images"][numbers])
    assert np.array_equal(truth["labels"], source["labels"][numbers])
    assert np.array_equal(track["labels"], truth["labels"])


def test_a_tail_of_unequal_classes_takes_what_all_of_them_have(tmp_path: Path) -> None:
    labels = np.repeat([0, 1, 2], [90, 30, 20])
    np.savez(tmp_path / "c.npz", images=some_images(140, 4, 4, 3), labels=labels)
    corrupt(tmp_path / "c.npz", tmp_path / "t.npz", imbalance=4)
    # n, n/2 and n/4 of 90, 30 and 20: the second allows n = 60
    assert np.bincount(load(tmp_path / "t.npz")["labels"]).tolist() == [60, 30, 15]


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.333, 0.8])
@pytest.mark.parametrize("kind", ["symmetric", "pair", "imbalanced"])
def test_exactly_so_many_labels_are_wrong_and_of_that_kind(kind: str, rate: float, clean: Path, tmp_path: Path) -> None:
    corrupt(clean, tmp_path / "t.npz", noise=f"{kind}:{rate}", imbalance=4, seed=2)
    track, truth = load(tmp_path / "t.npz"), load(tmp_path / "t.truth.npz")
    true, noisy, counts = truth["labels"], track["labels"], np.bincount(truth["labels"])
    wrong = true != noisy
    assert wrong.sum() == int(rate * len(true) + 1e-9)
    if kind == "pair":
        assert np.array_equal(noisy[wrong], (true[wrong] + 1) % CLASSES)
    elif rate:
        expected = np.zeros(CLASSES)
        for label in true[wrong]:  # where each would go, by the definition
            others = np.where(np.arange(CLASSES) == label, 0, counts if kind == "imbalanced" else 1)
            expected += others / others.sum()
        found = np.bincount(noisy[wrong], minlength=CLASSES)
        assert stats.chisquare(found, expected).pvalue > 1e-3
    transition = track["transition"]
    np.testing.assert_allclose(transition.sum(1), 1)
    np.testing.assert_allclose(transition.diagonal(), 1 - rate)
    assert json.loads(str(track["recipe"]))["wrong_labels"] == wrong.sum()


def test_labels_by_a_matrix(clean: Path, tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).dirichlet(np.ones(CLASSES), size=CLASSES)
    np.save(tmp_path / "T.npy", matrix)
    corrupt(clean, tmp_path / "t.npz", noise=str(tmp_path / "T.npy"))
    track, truth = load(tmp_path / "t.npz"), load(tmp_path / "t.truth.npz")
    for label in range(CLASSES):
        found = np.bincount(track["labels"][truth["labels"] == label], minlength=CLASSES)
        assert stats.chisquare(found, EACH * matrix[label]).pvalue > 1e-3
    np.testing.assert_array_equal(track["transition"], matrix)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(clean: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        corrupt(clean, tmp_path / f"{name}.npz", imbalance=10, noise="symmetric:0.3", seed=seed)
    for suffix in (".npz", ".truth.npz"):
        a, b, c = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "abc")
        assert a == b
        assert a != c


def test_a_track_is_trained_on_and_its_noise_is_what_forward_correction_reads(clean: Path, tmp_path: Path) -> None:
    corrupt(clean, tmp_path / "t.npz", noise="pair:0.3")
    data = load_data(tmp_path / "t.npz")
    assert data.train.classes == ("ant", "bee", "cat", "dog", "eel")
    ForwardCorrection(file=str(tmp_path / "t.npz")).loss(F.cross_entropy)
    make_tricks({"forward_correction": {"noise": 0.2, "file": "absent.npz"}})  # as for predictions
    config = resolve(budget=60, with_tricks=["forward_correction"], settings={"forward_correction.file": "t.npz"})
    assert Path(config.tricks["forward_correction"]["file"]).is_absolute()
    settings = {"forward_correction.file": "t.npz"}
    (tmp_path / "mine.yaml").write_text("tricks: {forward_correction: {noise: 0.2}}")
    message = error_of(package, tmp_path / "a.zip", recipe=tmp_path / "mine.yaml", settings=settings)
    assert "forward_correction.file" in message


def test_the_order_of_the_images_tells_no_label(tmp_path: Path) -> None:
    """Of a set that is sorted by class: neighbours are of one class as rarely as by chance."""
    labels = np.repeat(np.arange(4), 100)
    np.savez(tmp_path / "c.npz", images=some_images(400, 4, 4, 3), labels=labels)
    corrupt(tmp_path / "c.npz", tmp_path / "t.npz", noise="symmetric:0.5")
    true = load(tmp_path / "t.truth.npz")["labels"]
    assert np.mean(true[1:] == true[:-1]) < 0.4


def test_a_file_with_splits_is_refused_rather_than_its_test_images_taken(tmp_path: Path) -> None:
    arrays = {f"{part}_{split}": some_images(8, 4, 4) if part == "x" else np.arange(8) % 2
              for part in "xy" for split in ("train", "test")}  # fmt: skip
    np.savez(tmp_path / "keras.npz", **arrays)
    assert "has splits" in error_of(corrupt, tmp_path / "keras.npz", tmp_path / "t.npz", noise="pair:0.2")


def test_the_command_prints_what_it_did(clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(clean), "--out", str(tmp_path / "t.npz"), "--imbalance", "10", "--noise", "pair:0.6"]
    assert main(["corrupt", *arguments]) == 0
    said = capsys.readouterr()
    track, truth = load(tmp_path / "t.npz"), load(tmp_path / "t.truth.npz")
    wrong = int((track["labels"] != truth["labels"]).sum())
    assert f"{len(track['labels'])} images, {wrong} wrong labels (" in said.out
    assert "the true label is not the likeliest of ant, bee, cat, dog, eel" in said.err
    assert main(["corrupt", *arguments]) == 2
    assert "exists; name a new file" in capsys.readouterr().err


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "nothing to do"),
    ({"imbalance": 0.5}, "1 or more"),
    ({"imbalance": float("nan")}, "1 or more"),
    ({"imbalance": 500}, "no image"),
    ({"noise": "symmetric"}, "as in symmetric:0.2"),
    ({"noise": "symmetric:1"}, "as in symmetric:0.2"),
    ({"noise": "pair:-0.1"}, "as in pair:0.2"),
    ({"noise": "pair:much"}, "as in pair:0.2"),
    ({"noise": "uniform:0.2"}, "imbalanced:RATE"),
    ({"noise": "absent.npy"}, "cannot be read"),
]


@pytest.mark.parametrize(("options", "words"), BAD)
def test_bad_options_are_told_in_one_line_and_nothing_is_written(
    options: dict[str, Any], words: str, clean: Path, tmp_path: Path
) -> None:
    assert words in error_of(corrupt, clean, tmp_path / "t.npz", **options)
    assert not (tmp_path / "t.npz").exists()


BAD_DATA: dict[str, tuple[dict[str, Any], str]] = {
    "rank": ({"labels": np.zeros((4, 2), int)}, "integers [N]"),
    "type": ({"labels": np.zeros(4)}, "integers [N]"),
    "number": ({"labels": np.zeros(3, int)}, "4 images and 3 labels"),
    "negative": ({"labels": np.array([0, 1, -1, 0])}, "begin at 0"),
    "single": ({"labels": np.zeros(4, int)}, "a single class"),
    "far": ({"labels": np.array([0, 1, 0, 4294967295])}, "number the classes from 0"),
    "missing": ({"labels": np.array([0, 2, 0, 2]), "classes": np.array(["a", "b", "c"])}, "class b has no image"),
    "bytes": ({"labels": np.array([0, 1, 0, 1]), "classes": np.array([b"a", b"b"])}, "classes must be text"),
    "names": ({"labels": np.array([0, 1, 2, 0]), "classes": np.array(["a", "b"])}, "there are 2 classes"),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data_is_told_in_one_line(kind: str, tmp_path: Path) -> None:
    arrays, words = BAD_DATA[kind]
    np.savez(tmp_path / "bad.npz", images=some_images(4, 4, 4, 3), **arrays)
    assert words in error_of(corrupt, tmp_path / "bad.npz", tmp_path / "t.npz", noise="symmetric:0.2")


@pytest.mark.parametrize("matrix", [np.full((2, 2), 0.3), np.ones((2, 3)) / 3, np.array([["a"]])])
def test_a_bad_matrix_is_told_in_one_line(matrix: np.ndarray, clean: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "T.npy", matrix)
    assert "must hold" in error_of(corrupt, clean, tmp_path / "t.npz", noise=str(tmp_path / "T.npy"))


def test_a_matrix_of_other_classes_is_told_in_one_line(clean: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "T.npy", np.eye(3))
    message = error_of(corrupt, clean, tmp_path / "t.npz", noise=str(tmp_path / "T.npy"))
    assert "for 3 classes, and the data has 5" in message
