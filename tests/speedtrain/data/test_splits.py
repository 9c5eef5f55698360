"""Holdout, images per class, and test images that do not fit the training images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_images import GOOD, LABELS, digests, error_of, save_folder, save_npz, some_images, some_labels

from speedtrain.data import load_data


def uneven() -> tuple[np.ndarray, np.ndarray]:
    """A shuffled set of classes with 2, 9, 40 and 149 images."""
    labels = np.random.default_rng(3).permutation(np.repeat([0, 1, 2, 3], [2, 9, 40, 149]))
    return some_images(200), labels


def test_holdout_is_a_stratified_fifth() -> None:
    images, labels = uneven()
    data = load_data((images, labels))
    assert data.test_is_holdout
    assert np.bincount(data.test.labels).tolist() == [1, 2, 8, 30]
    assert np.bincount(data.train.labels).tolist() == [1, 7, 32, 119]
    assert sorted(digests(data.train.images) + digests(data.test.images)) == sorted(digests(images))
    label_of = dict(zip(digests(images), labels, strict=True))
    assert [label_of[digest] for digest in digests(data.test.images)] == data.test.labels.tolist()
    assert data.notes == (
        "test images: a stratified holdout of 41 of the 200 images of arrays",
        "arrays: classes of unequal size, in the holdout too: look at the balanced accuracy",
    )


def test_holdout_is_always_the_same() -> None:
    first = load_data(uneven())
    np.random.seed(99)
    again = load_data(uneven(), per_class=3)
    assert first.test.sha256() == again.test.sha256()
    assert first.test.sha256() != first.train.sha256()


def test_per_class_takes_exactly_so_many_in_file_order() -> None:
    images, labels = uneven()
    data = load_data((images, labels), (some_images(4, seed=1), np.arange(4)), per_class=20)
    assert np.bincount(data.train.labels).tolist() == [2, 9, 20, 20]
    order = {digest: place for place, digest in enumerate(digests(images))}
    places = [order[digest] for digest in digests(data.train.images)]
    assert places == sorted(places)
    assert labels[places].tolist() == data.train.labels.tolist()
    assert [place for place in places if labels[place] == 3] != np.flatnonzero(labels == 3)[:20].tolist()
    assert data.notes == ("2 of 4 classes have fewer than 20 training images (class '0': 2): taking what is there",)


@pytest.mark.parametrize("per_class", [None, "all", 10_000])
def test_all_images_a_class(per_class: Any) -> None:
    images, labels = uneven()
    data = load_data((images, labels), (some_images(4, seed=1), np.arange(4)), per_class=per_class)
    np.testing.assert_array_equal(data.train.images, images)


def test_holdout_comes_before_per_class() -> None:
    data = load_data(uneven(), per_class=1)
    assert np.bincount(data.train.labels).tolist() == [1, 1, 1, 1]
    assert np.bincount(data.test.labels).tolist() == [1, 2, 8, 30]


@pytest.mark.parametrize("per_class", [0, -3, 2.5, float("nan"), "many", "7"])
def test_bad_per_class(per_class: Any) -> None:
    assert "--per-class" in error_of(load_data, uneven(), per_class=per_class)


def test_overlap_is_said() -> None:
    images, labels = some_images(30), some_labels(30)
    test = np.concatenate([images[:4], some_images(5, seed=2)])
    data = load_data((images, labels), (test, some_labels(9)))
    assert any(note.startswith("4 of the 9 test images are also") for note in data.notes)


def test_test_labels_must_be_known(tmp_path: Path) -> None:
    message = error_of(load_data, (GOOD, LABELS), (some_images(4), np.array([0, 1, 2, 3])))
    assert "test label 3, but the training images have 3 classes" in message


def test_a_test_set_that_lacks_a_class_is_scored_on_what_is_there() -> None:
    data = load_data((GOOD, LABELS), (some_images(4), np.array([0, 1, 1, 0])))
    assert data.test.labels.tolist() == [0, 1, 1, 0]
    assert any("1 of 3 classes have no test image, '2' for one" in note for note in data.notes)


def test_a_single_image_of_a_class_is_trained_on_and_not_tested() -> None:
    data = load_data((GOOD, np.array([0] * 6 + [1] * 5 + [2])))
    assert np.bincount(data.train.labels).tolist() == [5, 4, 1]
    assert np.bincount(data.test.labels).tolist() == [1, 1]
    assert any("1 of 3 classes have a single image, '2' for one" in note for note in data.notes)
    assert "each class has a single image" in error_of(load_data, (GOOD[:3], np.arange(3)))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a", "b", "d"], "'d' is no class of the training images"),
        (["a", "b"], "'c' is missing"),
        (["b", "a", "c"], "another order"),
    ],
)
def test_names_in_both_npz_must_agree(tmp_path: Path, names: list[str], said: str) -> None:
    train = save_npz(tmp_path / "train.npz", images=GOOD, labels=LABELS, classes=["a", "b", "c"])
    test = save_npz(tmp_path / "test.npz", images=GOOD, labels=LABELS % len(names), classes=names)
    message = error_of(load_data, train, test)
    assert said in message
    assert str(test) in message


def test_classes_of_own_splits_must_agree(tmp_path: Path) -> None:
    save_folder(tmp_path / "train", {"a": GOOD[:2], "b": GOOD[2:4]})
    save_folder(tmp_path / "test", {"a": GOOD[:2], "c": GOOD[2:4]})
    message = error_of(load_data, tmp_path)
    assert f"{tmp_path / 'test'}: 'c' is no class of the training images: add training images of it" in message


def test_empty_class_folder_of_the_test_split(tmp_path: Path) -> None:
    save_folder(tmp_path / "train", {"a": GOOD[:2], "b": GOOD[2:4]})
    save_folder(tmp_path / "test", {"a": GOOD[:2], "b": GOOD[:0]})
    assert any("'b' for one" in note for note in load_data(tmp_path).notes)


def test_names_that_differ_little_are_said(tmp_path: Path) -> None:
    names = ["hat", "Hat", "1", "1.0", "bag"]
    save_folder(tmp_path, {name: some_images(2, seed=place) for place, name in enumerate(names)})
    notes = load_data(tmp_path, holdout=False).notes
    said = sorted(note.partition(": ")[2] for note in notes if "two classes" in note)
    assert said == ["'1' and '1.0' are taken for two classes", "'Hat' and 'hat' are taken for two classes"]
