"""Wrong labels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speedtrain.errors import UserError

KINDS = ("symmetric", "pair", "imbalanced")


@dataclass(frozen=True)
class LabelNoise:
    """How labels become wrong.

    Attributes:
        kind: `symmetric`, `pair`, `imbalanced`, or `matrix`.
        rate: the share ρ of all images that get a wrong label; of a matrix, 0.
        matrix: float [K, K], of kind `matrix`: the probability of label j for class i. None for the others.
    """

    kind: str
    rate: float
    matrix: np.ndarray | None = None

    def transition(self, counts: np.ndarray) -> np.ndarray:
        """T, float64 [K, K]: T[i, j] is the probability that an image of class i gets label j.

        - symmetric: any other class, all alike.
        - pair: the next class; of the last, the first.
        - imbalanced: another class in proportion to its size, so that noise flows to the large classes.

        Args:
            counts: images of each class, int [K].

        Raises:
            UserError: a matrix of other classes.
        """
        classes = len(counts)
        if self.matrix is not None:
            if len(self.matrix) != classes:
                raise UserError(f"--noise: the matrix is for {len(self.matrix)} classes, and the data has {classes}")
            return self.matrix
        if self.kind == "pair":
            others = np.roll(np.eye(classes), 1, axis=1)
        else:
            weights = counts.astype(float) if self.kind == "imbalanced" else np.ones(classes)
            others = np.where(np.eye(classes, dtype=bool), 0, weights)
            others /= others.sum(axis=1, keepdims=True)
        return (1 - self.rate) * np.eye(classes) + self.rate * others

    def apply(self, labels: np.ndarray, num_classes: int, generator: np.random.Generator) -> np.ndarray:
        """Labels of which some are wrong, int64 [N].

        But for a matrix, exactly ⌊ρN⌋ are wrong, drawn from the whole set, whatever their class.

        Args:
            labels: the true ones, int64 [N].
        """
        transition = self.transition(np.bincount(labels, minlength=num_classes))
        noisy = labels.copy()
        if self.matrix is None:
            chosen = generator.permutation(len(labels))[: int(self.rate * len(labels) + 1e-9)]
            rows = np.where(np.eye(num_classes, dtype=bool), 0, transition)[labels[chosen]]
            rows /= rows.sum(axis=1, keepdims=True)
        else:
            chosen, rows = np.arange(len(labels)), transition[labels]
        # the first class whose cumulated probability is above a uniform number
        uniform = generator.random(len(chosen))[:, None]
        noisy[chosen] = np.minimum((rows.cumsum(axis=1) <= uniform).sum(axis=1), num_classes - 1)
        return noisy


def parse_noise(text: str) -> LabelNoise:
    """The noise that an option names: KIND:RATE, or the path of a matrix as `.npy`.

    Raises:
        UserError: no such kind, a rate that is none, or not a matrix of probabilities.
    """
    kind, colon, rate = text.partition(":")
    if kind in KINDS:
        try:
            value = float(rate)
        except ValueError:
            value = -1.0
        if not (colon and 0 <= value < 1):
            raise UserError(f"--noise {text}: give the share of wrong labels, from 0 to below 1, as in {kind}:0.2")
        return LabelNoise(kind, value)
    if not text.endswith(".npy"):
        raise UserError(f"--noise {text}: give {', '.join(f'{kind}:RATE' for kind in KINDS)}, or a matrix as .npy")
    return LabelNoise("matrix", 0.0, _read_matrix(Path(text)))


def _read_matrix(path: Path) -> np.ndarray:
    from tricks import TrickError  # torch comes with it, so it comes late
    from tricks.forward_correction import read_transition

    try:
        return read_transition(path)
    except TrickError as error:
        raise UserError(f"--noise: {error}") from None
