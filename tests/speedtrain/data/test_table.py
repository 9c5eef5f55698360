"""Tables of image files: CSV files and data frames."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from labelled_images import error_of, some_images
from PIL import Image

from speedtrain.data import load_data

IMAGES = some_images(24)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with photos/00.png to photos/23.png."""
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / f"photos/{number:02}.png")
    return tmp_path


def rows(*more: str, count: int = 24) -> list[list[str]]:
    """Image and label of each row, three classes in turn, and further cells alike in all rows."""
    return [[f"photos/{number:02}.png", ["10", "9", "x"][number % 3], *more] for number in range(count)]


def save_csv(path: Path, header: str, lines: list[list[str]], separator: str = ",", encoding: str = "utf-8") -> Path:
    text = "\n".join([header.replace(",", separator), *(separator.join(line) for line in lines), ""])
    path.write_bytes(text.encode(encoding))
    return path


def numbers_of(files: tuple[str, ...] | None) -> list[int]:
    return [int(Path(file).stem) for file in files or ()]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_images_labels_and_names_come_through(photos: Path, separator: str, encoding: str) -> None:
    data = load_data(save_csv(photos / "labels.csv", "file,label", rows(), separator, encoding))
    assert data.train.classes == ("9", "10", "x")
    for part in (data.train, data.test):
        numbers = numbers_of(part.files)
        np.testing.assert_array_equal(part.images, IMAGES[numbers])
        assert [part.classes[label] for label in part.labels] == [rows()[number][1] for number in numbers]
    assert data.test_is_holdout
    assert sorted(numbers_of(data.train.files) + numbers_of(data.test.files)) == list(range(24))
    assert any("image from 'file', label from 'label'" in note for note in data.notes)


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("file,label1,label2,label10", {}),
        ("file,ann,bob,cy", {"label": "ann+bob+cy"}),
        ("file,Label_2,label 3,LABEL-9", {}),
    ],
)
def test_several_columns_of_labels(photos: Path, header: str, columns: dict[str, str]) -> None:
    def given(number: int) -> list[str]:  # the second gives none now and then
        return [rows()[number][1], "" if number % 5 == 0 else rows()[number][1], "x"]

    lines = [[rows()[number][0], *given(number)] for number in range(24)]
    data = load_data(save_csv(photos / "labels.csv", header, lines), columns=columns, labels="separate")
    assert data.train.classes == ("9", "10", "x")
    for part in (data.train, data.test):
        assert part.votes is not None
        names = [[part.classes[vote] if vote >= 0 else "" for vote in votes] for votes in part.votes]
        assert names == [given(number) for number in numbers_of(part.files)]


def test_a_class_that_one_annotator_misspelt(photos: Path) -> None:
    lines = [[file, label, label, "nein" if file == "photos/07.png" else label] for file, label in rows()]
    path = save_csv(photos / "a.csv", "file,label1,label2,label3", lines)
    assert "class 'nein' is the majority's label of no image: mend or remove it" in error_of(load_data, path)


@pytest.mark.parametrize(
    ("header", "columns", "words"),
    [
        ("file,label1,annotator1,label2,annotator2", {}, "may be the label: give --columns label=NAME"),
        ("file,a,b,c,d", {"label": "a+a"}, "names a column twice"),
        ("file,a,b,c,d", {"label": "a+z"}, "no column 'z'"),
    ],
)
def test_columns_that_are_not_clear(photos: Path, header: str, columns: dict[str, str], words: str) -> None:
    lines = [[file, label, "ann", label, "bob"] for file, label in rows()]
    assert words in error_of(load_data, save_csv(photos / "a.csv", header, lines), columns=columns)


def test_an_image_that_nobody_labelled(photos: Path) -> None:
    lines = [[file, label, label] for file, label in rows()]
    lines[4][1:] = ["", ""]
    path = save_csv(photos / "a.csv", "file,label1,label2", lines)
    assert "row 5 has nothing in column 'label1' and 'label2'" in error_of(load_data, path)


def test_columns_by_name_and_quoted_cells(photos: Path) -> None:
    lines = [[file, f'"{label}, said"', "odd"] for file, label in rows()]
    path = save_csv(photos / "a.csv", "where,what,label", lines)
    data = load_data(path, columns={"image": "where", "label": "what"})
    assert data.train.classes == ("9, said", "10, said", "x, said")
    assert not any("--columns" in note for note in data.notes)


def test_a_data_frame_is_relative_to_the_current_folder(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    frame = pd.DataFrame({"path": [row[0] for row in rows()], "class": [1.0, 0.0, 2.0] * 8})
    data = load_data(frame)
    assert data.train.classes == ("0", "1", "2")
    by_file = dict(zip(data.train.files or (), data.train.labels, strict=True))
    assert all(label == [1, 0, 2][int(Path(file).stem) % 3] for file, label in by_file.items())


def test_splits(photos: Path) -> None:
    lines = [[*row, split] for row, split in zip(rows(), ["Train"] * 12 + ["val"] * 6 + ["test"] * 6, strict=True)]
    path = save_csv(photos / "a.csv", "file,label,split", lines)
    data = load_data(path)
    assert numbers_of(data.train.files) == list(range(12))
    assert numbers_of(data.test.files) == list(range(18, 24))
    assert any("testing on test; val is not used" in note for note in data.notes)
    joined = load_data(path, with_validation=True)
    assert numbers_of(joined.train.files) == list(range(18))
    np.testing.assert_array_equal(joined.train.images, IMAGES[:18])
    assert numbers_of(joined.test.files) == list(range(18, 24))
    assert any("the 6 images of val are trained on as well" in note for note in joined.notes)


def test_groups_are_held_out_whole(photos: Path) -> None:
    lines = [[*row, f"burst {number // 3}"] for number, row in enumerate(rows())]
    data = load_data(save_csv(photos / "a.csv", "file,label,group", lines))
    held = {number // 3 for number in numbers_of(data.test.files)}
    assert held
    assert held.isdisjoint(number // 3 for number in numbers_of(data.train.files))
    assert Counter(data.test.labels.tolist()) == {0: 2, 1: 2, 2: 2}  # two of eight bursts: the nearest to a fifth of 24
    assert any("2 of 8 groups" in note for note in data.notes)


def test_a_group_without_which_a_class_has_nothing_is_not_held_out(photos: Path) -> None:
    lines = [[*row, row[1] if number % 3 else f"own {number}"] for number, row in enumerate(rows())]
    data = load_data(save_csv(photos / "a.csv", "file,label,group", lines))
    assert set(data.train.labels) == {0, 1, 2}
    assert set(data.test.labels) == {1}  # class 10, whose images are groups of their own
    message = error_of(load_data, save_csv(photos / "b.csv", "file,label,group", [[*row, row[1]] for row in rows()]))
    assert "no group can be held out" in message


def test_groups_on_both_sides_are_said(photos: Path) -> None:
    splits = ["train"] * 18 + ["test"] * 6
    lines = [[*row, split, str(number % 12)] for number, (row, split) in enumerate(zip(rows(), splits, strict=True))]
    data = load_data(save_csv(photos / "a.csv", "file,label,split,group", lines))
    assert any("6 groups have images on both sides" in note for note in data.notes)


def test_unreadable_and_missing_files_can_be_left_out(photos: Path) -> None:
    (photos / "photos/03.png").write_bytes(b"no image")
    (photos / "photos/07.png").unlink()
    path = save_csv(photos / "a.csv", "file,label,group", [[*row, row[0]] for row in rows()])
    assert "1 of 24 files in column 'file' are not there, 'photos/07.png' for one" in error_of(load_data, path)
    data = load_data(path, skip_unreadable=True)
    assert sorted(data.skipped) == ["photos/03.png", "photos/07.png"]
    used = sorted(numbers_of(data.train.files) + numbers_of(data.test.files))
    assert used == sorted(set(range(24)) - {3, 7})
    assert data.train.groups is not None
    assert data.train.groups.tolist() == list(data.train.files or ())


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("https://x.org/a.png", "'https://x.org/a.png' for one: addresses of the web are not read"),
        ("photos\\03.png", "'photos\\03.png' for one: write / in place of \\"),
        ("nowhere.png", "'nowhere.png' for one: give paths relative to"),
    ],
)
def test_files_that_are_not_there(photos: Path, file: str, said: str) -> None:
    path = save_csv(photos / "a.csv", "file,label", [[file, "a"], *rows()])
    assert said in error_of(load_data, path)


BAD = {
    "no image column": ("a,label", rows(), {}, "no column called image or file"),
    "no label column": ("file,b", rows(), {}, "no column called label or class (it has 'file', 'b')"),
    "two candidates": ("file,image", rows(), {"label": "image"}, "'file' and 'image' may be the image"),
    "no such column": ("file,label", rows(), {"label": "breed"}, "no column 'breed'"),
    "a column twice": ("file,file", rows(), {}, "two columns are called 'file'"),
    "a short line": ("file,label", [*rows(), ["photos/00.png"]], {}, "line 26 has 1 fields, not 2"),
    "an empty label": (
        "file,label",
        [*rows(count=6), ["photos/06.png", " "]],
        {},
        "row 7 has nothing in column 'label'",
    ),
    "only a header": ("file,label", [], {}, "it has no rows"),
    "all files missing": ("file,label", [["a.png", "1"]], {}, "give paths relative to"),
    "an image twice": ("file,label", [*rows(), ["photos/../photos/02.png", "9"]], {}, "is in row 3 and in row 25"),
    "another split": ("file,label,split", rows("holdout"), {}, "row 1 has the split 'holdout'"),
    "no training rows": ("file,label,split", rows("test"), {}, "no row has the split train"),
}


@pytest.mark.parametrize(("header", "lines", "columns", "said"), BAD.values(), ids=BAD)
def test_bad_tables(photos: Path, header: str, lines: list[list[str]], columns: dict[str, str], said: str) -> None:
    path = save_csv(photos / "bad.csv", header, lines)
    message = error_of(load_data, path, columns=columns)
    assert said in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "it is empty"), ("file,label\né.png,ü\n".encode("latin-1"), "not UTF-8")]
)
def test_files_that_are_no_tables(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    assert said in error_of(load_data, path)


def test_a_role_that_is_none(photos: Path) -> None:
    path = save_csv(photos / "a.csv", "file,label", rows())
    assert "no role 'labels'; did you mean 'label'" in error_of(load_data, path, columns={"labels": "label"})


def test_validation_to_join_must_be_there(photos: Path) -> None:
    alone = [[*row, split] for row, split in zip(rows(), ["train"] * 18 + ["val"] * 6, strict=True)]
    without = save_csv(photos / "a.csv", "file,label", rows())
    validation_is_the_test = save_csv(photos / "b.csv", "file,label,split", alone)
    for data in ("digits", (IMAGES, np.arange(24) % 3), without, validation_is_the_test):
        assert "no validation images beside its test images" in error_of(load_data, data, with_validation=True)
    joined = load_data(validation_is_the_test, (IMAGES[:3], np.arange(3)), with_validation=True)
    assert numbers_of(joined.train.files) == list(range(24))


@pytest.mark.parametrize("column", ["image", "label", "group"])
@pytest.mark.parametrize("gap", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, " "], ids=repr)
def test_whatever_stands_for_nothing_is_a_gap(
    photos: Path, monkeypatch: pytest.MonkeyPatch, column: str, gap: object
) -> None:
    monkeypatch.chdir(photos)
    table = pd.DataFrame(rows("g"), columns=["image", "label", "group"]).astype(object)
    table.loc[2, column] = gap
    assert f"row 3 has nothing in column '{column}'" in error_of(load_data, table)
    numbers = pd.DataFrame({"image": table["image"], "label": pd.array([*range(12)] * 2, dtype="Int64")})
    numbers.loc[5, "label"] = pd.NA
    if column != "image":
        assert "row 6 has nothing in column 'label'" in error_of(load_data, numbers)


def test_a_file_by_its_absolute_and_its_relative_path_is_one_file(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [*rows(), [str(photos / "photos/03.png"), "x"]]
    words = "is in row 4 and in row 25: an image has one row"
    assert words in error_of(load_data, save_csv(photos / "a.csv", "image,label", lines))
    monkeypatch.chdir(photos)
    assert words in error_of(load_data, Path("a.csv"))
    assert words in error_of(load_data, pd.DataFrame(lines, columns=["image", "label"]))


def test_columns_of_a_data_frame_have_names_of_their_own(photos: Path) -> None:
    table = pd.DataFrame(rows("x"), columns=["image", "label", "label"])
    assert "two columns are called 'label': give each its own name" in error_of(load_data, table)
