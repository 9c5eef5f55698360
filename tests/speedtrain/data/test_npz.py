"""An .npz in the layouts of others."""

from pathlib import Path

import numpy as np
import pytest
from labelled_images import error_of, save_npz, some_images, some_labels

from speedtrain.data import load_data, load_images

TRAIN, TEST, VALIDATION = some_images(12, 28, 28), some_images(6, 28, 28, seed=1), some_images(3, 28, 28, seed=2)


def medmnist(path: Path, **more: np.ndarray) -> Path:
    splits = {"train": TRAIN, "val": VALIDATION, "test": TEST}
    arrays = {f"{name}_images": images for name, images in splits.items()}
    arrays |= {f"{name}_labels": some_labels(len(images))[:, None].astype(np.uint8) for name, images in splits.items()}
    return save_npz(path, **{**arrays, **more})


def keras(path: Path, **more: np.ndarray) -> Path:
    arrays = {"x_train": TRAIN, "y_train": some_labels(12), "x_test": TEST, "y_test": some_labels(6)}
    return save_npz(path, **{**arrays, **more})


@pytest.mark.parametrize("save", [medmnist, keras])
def test_own_splits_in_the_layout_of_others(tmp_path: Path, save) -> None:
    path = save(tmp_path / "a.npz")
    data = load_data(path)
    ours = load_data((TRAIN, some_labels(12)), (TEST, some_labels(6)))
    assert not data.test_is_holdout
    for part, other in ((data.train, ours.train), (data.test, ours.test)):
        np.testing.assert_array_equal(part.images, other.images)
        np.testing.assert_array_equal(part.labels, other.labels)
    images, labels, _ = load_images(path)
    np.testing.assert_array_equal(images, data.test.images)
    np.testing.assert_array_equal(labels, data.test.labels)


def test_what_is_not_used_is_said(tmp_path: Path) -> None:
    notes = load_data(medmnist(tmp_path / "a.npz")).notes
    assert any("testing on test; val is not used" in note for note in notes)


@pytest.mark.parametrize("save", [medmnist, keras])
def test_images_of_several_classes_at_once_are_refused(tmp_path: Path, save) -> None:
    several = 1 - np.eye(3, dtype=np.int64)[some_labels(12)]
    path = save(tmp_path / "a.npz", **{"train_labels" if save is medmnist else "y_train": several})
    message = error_of(load_data, path)
    assert "one class per image; images of several classes at once are not supported" in message
    assert str(path) in message


def test_half_of_a_layout_is_none(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "a.npz", x_test=TEST, y_test=some_labels(6))
    assert "no 'images' in it (it holds x_test, y_test)" in error_of(load_data, path)


def test_a_layout_without_test_images_has_a_holdout(tmp_path: Path) -> None:
    data = load_data(save_npz(tmp_path / "a.npz", x_train=TRAIN, y_train=some_labels(12), x_test=TEST))
    assert data.test_is_holdout
    assert any("x_test in it are not used" in note for note in data.notes)
