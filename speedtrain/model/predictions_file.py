"""Predictions as a file: `.npz` for programs, `.csv` for people and spreadsheets."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from speedtrain.files import write_atomic, write_npz


def write_predictions(
    path: Path,
    probabilities: np.ndarray,
    classes: Sequence[str],
    files: Sequence[str] | None = None,
    labels: np.ndarray | None = None,
    problems: Mapping[int, str] | None = None,
    each_class: bool = True,
) -> None:
    """Writes predictions, in the format that the suffix names.

    An `.npz` holds `probabilities` float32 [N, K], `predicted` int64 [N], `classes`, their K names, and, where there
    are any, `files`, the N names, and `unreadable`, the names of files that could not be read and have no row. A `.csv`
    has a row per image: its file, or else its number from 0; the true class, where there are labels; the predicted
    class and its probability; and, if `each_class`, the probability of each class. The row of an unreadable file has
    its name alone.

    Args:
        path: `.npz` or `.csv`, in any case; its old content is replaced.
        probabilities: float32 [N, K].
        classes: names of the K classes.
        files: names of the N images. Default: none.
        labels: int64 [N], the true classes. Default: not known.
        problems: number of an image that could not be read → why. Default: none.
        each_class: whether a `.csv` has a column per class. Default: yes.

    Raises:
        OSError: it could not be written; it names `path`.
        ValueError: another suffix.
    """
    problems = problems or {}
    suffix = path.suffix.lower()
    if suffix == ".npz":
        good = [place for place in range(len(probabilities)) if place not in problems]
        names = {} if files is None else {"files": np.array([files[place] for place in good], dtype=str)}
        if problems:
            names["unreadable"] = np.array([str(place) if files is None else files[place] for place in problems])
        known = probabilities[good]
        predicted = known.argmax(1).astype(np.int64)
        with _naming(path):
            write_npz(path, probabilities=known, predicted=predicted, classes=np.array(classes), **names)
        return
    if suffix != ".csv":
        raise ValueError(f"{path}: predictions are written as .npz or .csv")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    true = [] if labels is None else ["true"]
    each = [f"p({name})" for name in classes] if each_class else []
    writer.writerow(["image" if files is None else "file", *true, "predicted", "probability", *each])
    for place, shares in enumerate(probabilities):
        name = place if files is None else files[place]
        label = [] if labels is None else [classes[labels[place]]]
        best = shares.argmax()
        answer = [classes[best], f"{shares[best]:.6f}", *(f"{p:.6f}" for p in shares if each_class)]
        writer.writerow([name, *label, *([""] * len(answer) if place in problems else answer)])
    with _naming(path):
        write_atomic(path, text.getvalue().encode(errors="backslashreplace"))  # a name may be no UTF-8


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Lets an `OSError` name `path`, not the temporary file beside it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
