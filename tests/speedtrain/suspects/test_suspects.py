"""Suspect labels: planted ones are found, on real images by real trainings; and how images are divided."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from labelled_images import error_of, save_npz, some_images

from speedtrain.cli import main
from speedtrain.data import Images, load_data
from speedtrain.errors import UserError
from speedtrain.suspects.commands import REFUSED
from speedtrain.suspects.find import UNUSED, divide, find_suspects

PINNED = ["--set", "width=8", "--set", "batch_size=32", "--set", "precision=fp32"]


@pytest.mark.usefixtures("warm_processes")
def test_planted_wrong_labels_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One in ten labels of the digits is wrong, and a class has too few images to be divided."""
    digits = load_data("digits", holdout=False).train
    generator = np.random.default_rng(0)
    labels = digits.labels.copy()
    wrong = generator.permutation(len(labels))[: len(labels) // 10]
    labels[wrong] = (labels[wrong] + generator.integers(1, 10, len(wrong))) % 10
    labels[:2] = 10
    wrong = wrong[wrong > 1]
    path = save_npz(tmp_path / "digits.npz", images=digits.images, labels=labels)
    out = tmp_path / "found"
    arguments = [
        "--data",
        str(path),
        "--budget",
        "120",
        *PINNED,
        "--set",
        "max_epochs=12",
        "--out",
        str(out),
        "--quiet",
    ]
    assert main(["suspects", *arguments]) == 0
    said = capsys.readouterr()
    assert "2 images of classes with too few to divide are not judged, of '10' for one" in said.err
    with open(out / "suspects.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = [int(row["image"]) for row in rows]
    assert f"{len(found)} of {len(labels) - 2} labels look wrong" in said.out
    right = set(found) & set(wrong.tolist())
    assert len(right) > 0.6 * len(wrong)
    assert len(right) > 0.6 * len(found)
    assert [row["given"] for row in rows] == [str(labels[place]) for place in found]
    as_it_was = [row["suggested"] == str(digits.labels[int(row["image"])]) for row in rows]
    assert np.mean(as_it_was) > 0.8
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores)
    summary = json.loads((out / "suspects.json").read_text())
    assert [row["image"] for row in summary["suspects"]] == found
    page = (out / "suspects.html").read_text()
    assert page.count("<figure>") == min(100, len(found))
    assert f"image {found[0]}" in page
    assert main(["suspects", *arguments]) == 2
    assert "exists; name a new folder" in capsys.readouterr().err


def some(labels: np.ndarray, groups: np.ndarray | None = None) -> Images:
    names = tuple(str(number) for number in range(labels.max() + 1))
    return Images("a", some_images(len(labels), 1, 1, 3), labels, names, groups=groups)


def test_folds_share_every_class_and_keep_groups_whole() -> None:
    labels = np.repeat([0, 1, 2], [90, 30, 2])
    fold_of = divide(some(labels), 3)
    for fold in range(3):
        assert np.bincount(labels[fold_of == fold]).tolist() == [30, 10]
    assert (fold_of[labels == 2] == -1).all()
    groups = np.array([f"g{number // 5}" for number in range(len(labels))], dtype=object)
    fold_of = divide(some(labels, groups), 3)
    for group in set(groups):
        assert len(set(fold_of[groups == group])) == 1


def test_bad_input(tmp_path: Path) -> None:
    data = (some_images(12), np.arange(12) % 3)
    assert "--folds must be 2 or more" in error_of(find_suspects, 5, data, tmp_path / "a", folds=1)
    assert "no class has 9 images" in error_of(find_suspects, 5, data, tmp_path / "a", folds=9)
    assert "--test has no use here" in error_of(find_suspects, 5, data, tmp_path / "a", test=data)
    assert "--per-class has no use here" in error_of(find_suspects, 5, data, tmp_path / "a", per_class=2)
    assert "one label an image" in error_of(find_suspects, 5, data, tmp_path / "a", labels="em")
    (tmp_path / "file").touch()
    assert "cannot be written" in error_of(find_suspects, 5, data, tmp_path / "file/a")
    with pytest.raises(UserError, match="is in one part alone, by its groups"):
        divide(some(np.repeat([0, 1], 9), np.repeat(np.array(["a", "b", "c"], dtype=object), [9, 5, 4])), 2)
    with pytest.raises(UserError, match="2 groups cannot be divided into 3 parts"):
        divide(some(np.repeat([0, 1], 9), np.repeat(np.array(["a", "b"], dtype=object), 9)), 3)
    assert not (tmp_path / "a").exists()


def test_help_lists_no_option_that_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert {f"--{option.replace('_', '-')}" for option in UNUSED} == set(REFUSED)
    with pytest.raises(SystemExit):
        main(["suspects", "--help"])
    listed = re.findall(r"^  (--[\w-]+)", capsys.readouterr().out, re.MULTILINE)
    assert "--folds" in listed
    assert not set(REFUSED) & set(listed)
