"""Predictions: in Python, and as a file: `.npz` for programs, `.csv` for people and spreadsheets."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np

from speedtrain.files import write_atomic, write_npz


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one image shows.

    Attributes:
        probabilities: float32 [K], of the classes; NaN where the image could not be read.
        classes: names of the K classes.
        file: name of the image file; None where the image comes from no file.
        problem: why the file could not be read; None where it could.
    """

    probabilities: np.ndarray
    classes: tuple[str, ...]
    file: str | None = None
    problem: str | None = None

    @property
    def label(self) -> str | None:
        """The name of the most probable class; None where the image could not be read."""
        return None if self.problem is not None else self.classes[self.probabilities.argmax()]

    @property
    def probability(self) -> float:
        """Of the most probable class."""
        return float(self.probabilities.max())

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The most probable classes and their probabilities, the most probable one first.

        Args:
            count: how many. Default: 5, or all where there are fewer.
        """
        if self.problem is not None:
            return []
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[place], float(self.probabilities[place])) for place in order]

    def __repr__(self) -> str:
        of = f"{self.file}: " if self.file else ""
        if self.problem is not None:
            return f"<{of}cannot be read as an image ({self.problem})>"
        return f"<{of}{', '.join(f'{name} {probability:.1%}' for name, probability in self.top(3))}>"


@dataclass(frozen=True, repr=False, eq=False)
class Predictions(Sequence[Prediction]):
    """What several images show, in the order in which they were given: a sequence of `Prediction`.

    Attributes:
        probabilities: float32 [N, K]; rows of NaN for images that could not be read.
        classes: names of the K classes.
        files: names of the N image files; None for an image that comes from no file.
        problems: number of an image that could not be read → why.
        precision: fp32, bf16 or fp16, in which they were computed.
        of_members: probabilities of each member, of a model that has several.
    """

    probabilities: np.ndarray
    classes: tuple[str, ...]
    files: Sequence[str | None]
    problems: Mapping[int, str] = field(default_factory=dict)
    precision: str = "fp32"
    of_members: tuple[np.ndarray, ...] = ()

    @property
    def labels(self) -> list[str | None]:
        """The name of the most probable class of each image; None where it could not be read."""
        predicted = self.probabilities.argmax(1)
        return [None if place in self.problems else self.classes[label] for place, label in enumerate(predicted)]

    def top(self, count: int = 5) -> list[list[tuple[str, float]]]:
        """Of each image, as `Prediction.top`."""
        return [prediction.top(count) for prediction in self]

    def save(self, path: str | Path, *, each_class: bool = False) -> None:
        """Writes them: see `write_predictions`.

        Raises:
            OSError: it could not be written.
            ValueError: the suffix is neither .npz nor .csv.
        """
        named = any(file is not None for file in self.files)
        files = [file or "" for file in self.files] if named else None
        write_predictions(
            Path(path), self.probabilities, self.classes, files, problems=self.problems, each_class=each_class
        )

    def __len__(self) -> int:
        return len(self.probabilities)

    @overload
    def __getitem__(self, place: int) -> Prediction: ...
    @overload
    def __getitem__(self, place: slice) -> list[Prediction]: ...
    def __getitem__(self, place: int | slice) -> Prediction | list[Prediction]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        return Prediction(self.probabilities[place], self.classes, self.files[place], self.problems.get(place))

    def __repr__(self) -> str:
        shown = [repr(each) for each in self[:3]] + (["…"] if len(self) > 3 else [])
        return f"<{len(self)} predictions: {', '.join(shown)}>"


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
        path: `.npz` or `.csv`; its old content is replaced.
        probabilities: float32 [N, K].
        classes: names of the K classes.
        files: names of the N images. Default: none.
        labels: int64 [N], the true classes. Default: not known.
        problems: number of an image that could not be read → why. Default: none.
        each_class: whether a `.csv` has a column per class. Default: yes.

    Raises:
        OSError: it could not be written.
        ValueError: another suffix.
    """
    problems = problems or {}
    if path.suffix == ".npz":
        good = [place for place in range(len(probabilities)) if place not in problems]
        names = {} if files is None else {"files": np.array([files[place] for place in good], dtype=str)}
        if problems:
            names["unreadable"] = np.array([str(place) if files is None else files[place] for place in problems])
        known = probabilities[good]
        predicted = known.argmax(1).astype(np.int64)
        write_npz(path, probabilities=known, predicted=predicted, classes=np.array(classes), **names)
        return
    if path.suffix != ".csv":
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
    write_atomic(path, text.getvalue().encode(errors="backslashreplace"))  # a name may be no UTF-8
