"""Tables of image files: a CSV file, or a data frame of pandas or polars."""

import csv
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from speedtrain.data.annotators import NO_LABEL, check_votes, majority
from speedtrain.data.image_files import Reading, labelled_photographs
from speedtrain.data.source import NOT_FROM_THE_WEB, Source, class_numbers, data_error, is_gap, unreadable
from speedtrain.data.splits import TEST_SPLITS, TRAIN, Sources, SplitChoice, read_chosen, split_called
from speedtrain.errors import UserError

SUFFIXES = (".csv", ".tsv")

ROLES = {
    "image": ("image", "file", "filename", "path"),
    "label": ("label", "class"),
    "split": ("split",),
    "group": ("group",),
}
"""What a column can be for → the names by which it is found where nobody names it."""
BETWEEN_LABELS = "+"
"""Between the names of several columns of labels, in `--columns label=ONE+OTHER`."""
NUMBERED = re.compile(r"(label|annotator)[ _-]?([0-9]+)", re.IGNORECASE)
"""Names by which the columns of several annotators are found."""

Columns = dict[str, list[Any]]


def read_table(table: Any, name: str, reading: Reading, choice: SplitChoice, columns: Mapping[str, str]) -> Sources:
    """The labelled images of a table, and its own test images where it has any.

    Args:
        table: the path of a CSV file, or a data frame. Paths of images in it are relative to the file's folder, of a
            data frame to the current folder.
        name: as in `Source`.
        reading: how the images are read.
        choice: which splits are used.
        columns: role, one of `ROLES` → name of its column. The others are found by their usual names.

    Raises:
        UserError: a column is missing, a row is not as it should be, or an image cannot be read.
    """
    is_file = isinstance(table, Path)
    where = str(table) if is_file else name
    there = _read_csv(table) if is_file else _columns_of(table, where)
    chosen = _choose(there, columns, where)
    annotators = _choose_labels(there, columns, where)
    rows = {role: [_text(value) for value in there[column]] for role, column in chosen.items()}
    if not rows["image"]:
        raise data_error(where, "it has no rows: give one for each image")
    given = [[_text(value) for value in there[column]] for column in annotators]
    in_words = " and ".join(map(repr, annotators))
    for column, texts in (*((repr(chosen[role]), texts) for role, texts in rows.items()), _any_label(in_words, given)):
        if "" in texts:
            row = texts.index("") + 1
            raise data_error(where, f"row {row} has nothing in column {column}: fill it, or remove the row")
    folder = table.parent if is_file else Path()
    _check_named_once(rows, folder, where)
    _check_there(rows["image"], folder, chosen["image"], where, reading)
    split_of = np.array(_splits(rows, where), dtype=object)
    sources = {role: repr(column) for role, column in chosen.items()} | {"label": in_words}
    said = ", ".join(f"{role} from {sources[role]}" for role in ROLES if role in sources and role not in columns)
    found = f"{name}: {said} (--columns {'image=…,label=…'} names others)" if said else None

    def read(split: str, reading: Reading) -> Source:
        places = np.flatnonzero(split_of == split)
        votes, classes = _votes([[texts[place] for texts in given] for place in places])
        if len(annotators) > 1:
            check_votes(votes, where, chosen=reading.from_annotators or split != TRAIN)
        files = {folder / rows["image"][place]: rows["image"][place] for place in places}
        notes = [found] if found and split == TRAIN else []
        labels = majority(votes) if len(annotators) > 1 else votes[:, 0]
        source = labelled_photographs(name, where, files, labels, classes, reading, notes)
        if len(annotators) > 1:
            vote_of = {rows["image"][place]: vote for place, vote in zip(places, votes, strict=True)}
            source = replace(source, votes=np.array([vote_of[file] for file in source.files or ()]))
        if "group" not in rows:
            return source
        group_of = {rows["image"][place]: rows["group"][place] for place in places}
        return replace(source, groups=tuple(group_of[file] for file in source.files or ()))

    splits = {split: split for split in (TRAIN, *TEST_SPLITS) if (split_of == split).any()}
    return read_chosen(splits, name, where, read, reading, choice)


def is_table(data: Any) -> bool:
    """Whether it is a data frame."""
    return hasattr(data, "columns") and hasattr(data, "__getitem__")


def _columns_of(table: Any, where: str) -> Columns:
    """The columns of a data frame."""
    _check_names([str(column) for column in table.columns], where)
    return {str(column): list(table[column]) for column in table.columns}


def _check_names(names: Sequence[str], where: object) -> None:
    if len(set(names)) < len(names):
        twice = next(column for column in names if names.count(column) > 1)
        raise data_error(where, f"two columns are called {twice!r}: give each its own name")


def _read_csv(path: Path) -> Columns:
    """The columns of a CSV file by the names in its first line; its separator is a comma, a semicolon or a tab."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            separator = max(",;\t", key=first.count)
            lines = [(reader.line_num, line) for reader in [csv.reader(file, delimiter=separator)] for line in reader]
    except UnicodeDecodeError as error:
        raise data_error(path, f"it is not UTF-8 ({error.reason}): save it as UTF-8") from None
    except csv.Error as error:
        raise data_error(path, f"it is not CSV ({error}): save it as comma-separated values") from None
    except OSError as error:
        raise unreadable(path, error) from error
    lines = [(number, line) for number, line in lines if any(field.strip() for field in line)]
    if not lines:
        raise data_error(path, "it is empty: the first line names the columns, and a line for each image follows")
    (_, header), *rest = lines
    names = [field.strip() for field in header]
    _check_names(names, path)
    for number, line in rest:
        if len(line) != len(names):
            raise data_error(path, f"line {number} has {len(line)} fields, not {len(names)} as the first line: mend it")
    return {column: [line[place] for _, line in rest] for place, column in enumerate(names)}


def _choose(there: Columns, columns: Mapping[str, str], where: str) -> dict[str, str]:
    """Role → its column: the one named, or the only one with a usual name."""
    chosen = {}
    has = f"it has {', '.join(map(repr, there))}"
    for role, usual in ROLES.items():
        if role == "label":
            continue
        if (named := columns.get(role)) is not None:
            if named not in there:
                raise data_error(where, f"no column {named!r} ({has}): give --columns {role}=NAME")
            chosen[role] = named
            continue
        found = [column for column in there if column.lower() in usual]
        if role == "image" and len(found) != 1:
            raise _not_one(role, found, usual, has, where)
        if found:
            chosen[role] = found[0]
    return chosen


def _choose_labels(there: Columns, columns: Mapping[str, str], where: str) -> list[str]:
    """The columns of labels: of one annotator, or of several."""
    has = f"it has {', '.join(map(repr, there))}"
    if (named := columns.get("label")) is not None:
        several = [named] if named in there else named.split(BETWEEN_LABELS)
        for column in several:
            if column not in there:
                raise data_error(where, f"no column {column!r} ({has}): give --columns label=NAME, or label=ONE+OTHER")
        if len(set(several)) < len(several):
            raise data_error(where, f"--columns label={named} names a column twice: an annotator has one")
        return several
    found = [column for column in there if column.lower() in ROLES["label"]]
    numbered = {column: match for column in there if (match := NUMBERED.fullmatch(column))}
    if not found and len(numbered) > 1:
        if len({match[1].lower() for match in numbered.values()}) > 1:
            raise _not_one("label", list(numbered), ROLES["label"], has, where)
        return sorted(numbered, key=lambda column: int(numbered[column][2]))
    if len(found) != 1:
        raise _not_one("label", found, ROLES["label"], has, where)
    return found


def _not_one(role: str, found: Sequence[str], usual: Sequence[str], has: str, where: str) -> UserError:
    if found:
        return data_error(where, f"{' and '.join(map(repr, found))} may be the {role}: give --columns {role}=NAME")
    return data_error(where, f"no column called {' or '.join(usual)} ({has}): give --columns {role}=NAME")


def _any_label(columns: str, given: Sequence[Sequence[str]]) -> tuple[str, list[str]]:
    """The columns' names, and of each row a label that is there, if any is."""
    return columns, [max(texts) for texts in zip(*given, strict=True)]


def _votes(names: Sequence[Sequence[str]]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers int64 [N, A] of the classes named, -1 for an empty name; and the classes."""
    numbers, classes = class_numbers([name for row in names for name in row if name])
    votes = np.full((len(names), len(names[0])), NO_LABEL, np.int64)
    votes[np.array([[bool(name) for name in row] for row in names])] = numbers
    return votes, classes


def _text(value: Any) -> str:
    """A cell as text; empty where there is nothing in it. Whole numbers lose the point that a data frame gives them."""
    if is_gap(value):
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _check_named_once(rows: Mapping[str, Sequence[str]], folder: Path, where: str) -> None:
    first: dict[str, int] = {}
    for row, file in enumerate(rows["image"], 1):
        if (before := first.setdefault(os.path.abspath(folder / file), row)) != row:
            raise data_error(where, f"{file!r} is in row {before} and in row {row}: an image has one row")


def _check_there(files: Sequence[str], folder: Path, column: str, where: str, reading: Reading) -> None:
    missing = [file for file in files if not (folder / file).is_file()]
    if missing and not (reading.skip_unreadable and len(missing) < len(files)):
        what = f"{len(missing)} of {len(files)} files in column {column!r} are not there, '{missing[0]}' for one"
        hint = "" if len(missing) == len(files) else ", or leave them out by --skip-unreadable"
        if "://" in missing[0]:
            raise data_error(where, f"{what}: {NOT_FROM_THE_WEB}")
        if "\\" in missing[0] and os.sep == "/":
            raise data_error(where, f"{what}: write / in place of \\{hint}")
        raise data_error(where, f"{what}: give paths relative to {folder.absolute()}{hint}")


def _splits(rows: Mapping[str, Sequence[str]], where: str) -> list[str]:
    """The split of each row."""
    if "split" not in rows:
        return [TRAIN] * len(rows["image"])
    splits = []
    for row, text in enumerate(rows["split"], 1):
        if (split := split_called(text)) is None:
            known = ", ".join((TRAIN, *TEST_SPLITS))
            raise data_error(where, f"row {row} has the split {text!r}: give one of {known}")
        splits.append(split)
    if TRAIN not in splits:
        raise data_error(where, "no row has the split train: mark the images to train on")
    return splits
