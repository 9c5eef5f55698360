"""Arrays that cannot be used, from a file and from memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_images import GOOD, LABELS, error_of, save_npz, some_images

from speedtrain.data import load_data

FLOATS = GOOD.astype(np.float32) / 255


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed.flat[5] = value
    return changed


BAD_ARRAYS = {
    "negative integers": (GOOD.astype(np.int64) - 1, LABELS, "int64 from -1 to 254: give values from 0"),
    "integers of 17 bits": (GOOD.astype(np.int64) << 9, LABELS, "at most 16 bits"),
    "bool images": (GOOD > 9, LABELS, "images are bool"),
    "complex images": (GOOD.astype(np.complex64), LABELS, "images are complex64"),
    "text images": (GOOD.astype(str), LABELS, "images are <U"),
    "rank 2": (GOOD.reshape(12, -1), LABELS, "shape (12, 3072)"),
    "rank 5": (GOOD[None], LABELS, "shape (1, 12, 32, 32, 3)"),
    "rank 0": (np.uint8(3), LABELS, "shape ()"),
    "two channels": (GOOD[..., :2], LABELS, "2 channels"),
    "four channels": (some_images(12, 32, 32, 4), LABELS, "4 channels"),
    "channels first": (some_images(12, 3, 32, 32), LABELS, "transpose(0, 2, 3, 1)"),
    "no images": (GOOD[:0], LABELS[:0], "no images"),
    "zero height": (GOOD[:, :0], LABELS, "0×32 pixels"),
    "zero width": (GOOD[:, :, :0], LABELS, "32×0 pixels"),
    "nan": (with_value(FLOATS, np.nan), LABELS, "NaN"),
    "inf": (with_value(FLOATS, np.inf), LABELS, "infinity"),
    "minus inf": (with_value(FLOATS, -np.inf), LABELS, "infinity"),
    "negative float": (with_value(FLOATS, -0.5), LABELS, "from -0.5 to"),
    "float just above 1": (with_value(FLOATS, 1.0004), LABELS, "up to 1.0004, just above 1: clip them"),
    "large float": (with_value(FLOATS, 256), LABELS, "to 256"),
    "float labels": (GOOD, LABELS.astype(float), "labels.astype(int)"),
    "bool labels": (GOOD, LABELS > 1, "labels are bool"),
    "text labels": (GOOD, LABELS.astype(str), "labels are <U"),
    "negative label": (GOOD, LABELS - 1, "label -1 is negative"),
    "enormous label": (GOOD, with_value(LABELS, 2**62), "class '3' has no training image"),
    "unsigned label out of range": (GOOD, with_value(LABELS.astype(np.uint64), 2**63), "too large"),
    "too few labels": (GOOD, LABELS[:-1], "11 labels for 12 images"),
    "too many labels": (GOOD[:-1], LABELS, "12 labels for 11 images"),
    "a column of labels": (GOOD, LABELS[:, None], "labels.ravel()"),
    "one-hot labels": (GOOD, np.eye(3, dtype=int)[LABELS], "shape (12, 3)"),
    "one label": (GOOD, np.array(1), "shape ()"),
    "one class": (GOOD, LABELS * 0, "one class"),
    "a single image": (GOOD[:1], LABELS[:1], "one class"),
    "counted from 1": (GOOD, LABELS + 1, "class '0' has no training image: add some, or number without gaps"),
    "a gap": (GOOD, LABELS * 2, "class '1' has no training image"),
}


@pytest.mark.parametrize(("images", "labels", "said"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
@pytest.mark.parametrize("way", ["npz", "arrays", "test npz"])
def test_bad_arrays(tmp_path: Path, images: np.ndarray, labels: np.ndarray, said: str, way: str) -> None:
    if way == "arrays":
        assert said in error_of(load_data, (images, labels))
        return
    path = save_npz(tmp_path / "bad.npz", images=images, labels=labels)
    if way == "npz":
        message = error_of(load_data, path)
        assert said in message
        assert str(path) in message
    elif said != "one class":  # as test images the same file is wrong too, except that they may lack classes
        assert str(path) in error_of(load_data, (GOOD, LABELS), path)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["a", "b"], "label 2 but only 2 names"),
        ([], "classes are float64"),
        (["a", "b", "c", "d"], "class 'd' has no training image"),
        (["a", "b", "a"], "same name"),
        ([["a", "b", "c"]], "shape (1, 3)"),
        ([b"a", b"b", b"c"], "classes are |S1"),
        (np.array(["a", "b", "c"], dtype=object), "Object arrays cannot be loaded"),
    ],
)
def test_bad_class_names(tmp_path: Path, classes: Any, said: str) -> None:
    path = save_npz(tmp_path / "bad.npz", images=GOOD, labels=LABELS, classes=classes)
    message = error_of(load_data, path)
    assert said in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ((GOOD,), "a tuple of 1"),
        ((GOOD, LABELS, LABELS), "a tuple of 3"),
        (([[1, 2], [3]], LABELS), "these are not arrays"),
        ((GOOD, None), "labels are object"),
        ([GOOD, LABELS], "item 0 is a ndarray: give pairs (image, label), or a tuple of two arrays"),
        (GOOD, "data is a ndarray"),
        (7, "data is a int"),
        (None, "data is a NoneType"),
    ],
)
def test_bad_from_python(data: Any, said: str) -> None:
    assert said in error_of(load_data, data)
