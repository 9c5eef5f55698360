"""What is judged, and how, as the journal records it: a judging goes on only if all of it is the same."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from speedtrain.data import Data, load_images
from speedtrain.data.photograph import Fit
from speedtrain.errors import UserError
from speedtrain.judge.archive import Submission
from speedtrain.judge.journal import Journal
from speedtrain.judge.settings import Score, Settings, ZipRules

SCHEMA = 2
EARLIER = {"score": asdict(Score()), "rules": asdict(ZipRules()), "gpus": None}
"""Settings that boards of schema 1 do not name."""


def rules_of(name: str, regimes: Mapping[str, Data], settings: Settings, fit: Fit) -> dict[str, Any]:
    """What is judged, and how. A judging is resumed only if all of it is the same.

    Args:
        name: of the competition.
        regimes: name → training and test images.
        settings: the rules of the judging.
        fit: what became of images that are not square.
    """
    return {
        "schema": SCHEMA,
        "name": name,
        "settings": asdict(settings),
        "fit": fit,
        "regimes": {
            regime: {
                "data": {
                    "name": data.train.name,
                    "num_train": len(data.train.labels),
                    "train_sha256": data.train.sha256(),
                },
                "classes": list(data.train.classes),
                "num_test_images": len(data.test.labels),
                "test_images_sha256": images_sha256(data.test.images),
                "side": data.side,
            }
            for regime, data in regimes.items()
        },
    }


def facts_of(submissions: Mapping[str, Submission]) -> dict[str, dict[str, Any]]:
    return {
        key: {
            **{name: getattr(submission, name) for name in ("sha256", "name", "authors", "version", "licence")},
            "rules": [asdict(rule) for rule in submission.rules],
            "notes": list(submission.notes),
            "refused": submission.refused,
        }
        for key, submission in submissions.items()
    }


def refuse_other_rules(journal: Journal, rules: Mapping[str, Any], out: Path) -> None:
    """Raises UserError unless the rules are those under which a board was begun."""
    begun = {
        "settings": {**EARLIER, **journal.header["settings"]},
        "regimes": journal.regimes,
        "fit": journal.header.get("fit", rules["fit"]),
        "name": journal.header.get("name", rules["name"]),
    }
    remedy = f"when {out} was begun: give it as it was, or judge into a new folder"
    for key, value in rules["settings"].items():
        if value != (before := begun["settings"].get(key)):
            raise UserError(f"{key} is {value}, and was {before} {remedy}")
    if begun["regimes"] != rules["regimes"]:
        raise UserError(f"the images, or the labels of the training images, are not what they were {remedy}")
    for key, value in begun.items():
        if value != rules[key]:
            raise UserError(f"{key} is not what it was {remedy}")


def refuse_other_submissions(journal: Journal, submissions: Mapping[str, Submission], out: Path) -> None:
    """Raises UserError unless the submissions are those with which a board was begun.

    Whether one was refused is decided once, at the beginning.
    """
    begun = {key: facts["sha256"] for key, facts in journal.header["submissions"].items()}
    if begun != {key: submission.sha256 for key, submission in submissions.items()}:
        raise UserError(f"--resume: submissions is not what it was when {out} was begun; judge into a new folder")


def images_sha256(images: np.ndarray) -> str:
    """Hex digest of the bytes of images uint8 [N, H, W, 3]."""
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()


def read_labels(out: Path, tests: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """Reads the test images of a judged board again; returns the labels int64 [N] per training set.

    Args:
        out: folder of the board.
        tests: name of the training set → its test images, of which only the labels may have changed.

    Raises:
        UserError: these are not the images that the submissions were judged on.
    """
    journal = Journal(out / "private" / "journal.jsonl")
    journal.close()
    if tests.keys() != journal.regimes.keys():
        names = ", ".join(filter(None, journal.regimes)) or "a single one"
        raise UserError(f"{out} was judged on other training sets ({names}): give its --competition")
    fit = journal.header.get("fit", "crop")
    return {name: _labels(out, test, journal.regimes[name], fit) for name, test in tests.items()}


def _labels(out: Path, test: Path, regime: Mapping[str, Any], fit: Fit) -> np.ndarray:
    images, labels, names = load_images(test, need_labels=True, side=regime["side"], fit=fit)
    assert labels is not None
    if images_sha256(images) != regime["test_images_sha256"]:
        raise UserError(f"{test}: these are not the images that {out} was judged on")
    classes = regime["classes"]
    if names is not None and list(names) != classes:
        raise UserError(f"{test}: its classes are not those that {out} was judged on")
    if labels.max() >= len(classes):
        raise UserError(f"{test}: label {labels.max()}, but there are {len(classes)} classes")
    return labels


def labels_sha256(regimes: Mapping[str, Data]) -> dict[str, str]:
    """Hex digest of the labels of each regime's test images."""
    return {name: hashlib.sha256(data.test.labels.tobytes()).hexdigest() for name, data in regimes.items()}
