"""Predictions in Python: of one image, and of several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np

from speedtrain.model.predictions_file import write_predictions


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
