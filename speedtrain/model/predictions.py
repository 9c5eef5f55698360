"""Predictions as a file: `.npz` for programs, `.csv` for people and spreadsheets."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from speedtrain.files import write_atomic, write_npz


def write_predictions(
    path: Path,
    probabilities: np.ndarray,
    classes: Sequence[str],
    files: Sequence[str] | None = None,
    labels: np.ndarray | None = None,
    unreadable: Sequence[str] = (),
) -> None:
    """Writes predictions, in the format that the suffix names.

    An `.npz` holds `probabilities` float32 [N, K], `predicted` int64 [N], `classes`, their K names, and, where there
    are any, `files`, the N names, and `unreadable`, the names of files that could not be read. A `.csv` has a row per
    image: its file, or else its number from 0; the true class, where there are labels; the predicted class; and the
    probability of each class. The rows of unreadable files come last and have no prediction.

    Args:
        path: `.npz` or `.csv`; its old content is replaced.
        probabilities: float32 [N, K].
        classes: names of the K classes.
        files: names of the N images; default: none.
        labels: int64 [N], the true classes; default: not known.
        unreadable: names of files that could not be read; default: none.

    Raises:
        OSError: it could not be written.
    """
    predicted = probabilities.argmax(1)
    if path.suffix == ".npz":
        names = {} if files is None else {"files": np.array(files)}
        if unreadable:
            names["unreadable"] = np.array(unreadable)
        write_npz(path, probabilities=probabilities, predicted=predicted, classes=np.array(classes), **names)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    true = [] if labels is None else ["true"]
    writer.writerow(["image" if files is None else "file", *true, "predicted", *(f"p({name})" for name in classes)])
    for i, shares in enumerate(probabilities):
        label = [] if labels is None else [classes[labels[i]]]
        writer.writerow(
            [i if files is None else files[i], *label, classes[predicted[i]], *(f"{p:.6f}" for p in shares)]
        )
    for name in unreadable:
        writer.writerow([name, *("" for _ in true), "", *("" for _ in classes)])
    write_atomic(path, text.getvalue().encode())
