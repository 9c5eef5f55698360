"""Forward correction of the loss."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tricks.trick import Loss, Trick, TrickError


@dataclass
class ForwardCorrection(Trick):
    """Tells the loss how labels were made wrong, so that the network learns the true ones.

    T is the noise: T[i, j] is the probability that an image of class i was given label j. The network's probabilities p
    of the true class become those of the given label (section 4.1 of the paper):

        loss(log(Tᵀ p), given label)

    The network itself predicts p, the true class. T comes from a file, or is symmetric: a wrong label, with probability
    `noise`, is any of the others.

    Args:
        noise: the probability of a wrong label, at least 0 and below 1, for symmetric noise. Default: 0.2.
        file: path of a matrix T as `.npy`, float [K, K], or of an `.npz` that holds it as `transition`, instead of
            `noise`. Default: empty.
    """

    noise: float = 0.2
    file: str = ""

    interacts: ClassVar[str] = (
        "label_smoothing smooths the given label. logit_adjustment takes the shares of the given labels, which noise "
        "may have changed: leave it out. generalized_cross_entropy may be the loss."
    )
    paper: ClassVar[str] = "Patrini et al., Making Deep Neural Networks Robust to Label Noise, 2017 (arXiv 1609.03683)"

    def __post_init__(self) -> None:
        if not 0 <= self.noise < 1:
            raise TrickError(f"noise must be at least 0 and below 1, got {self.noise}")

    def loss(self, loss: Loss) -> Loss:
        # read here, and not before, since predictions do without it
        given_matrix = None if self.file == "" else read_transition(Path(self.file))
        matrix: Tensor | None = None

        def corrected(logits: Tensor, targets: Tensor) -> Tensor:
            nonlocal matrix
            if matrix is None:
                matrix = self._transition(given_matrix, logits.shape[1]).to(logits)
            # of log-probabilities the softmax is the probabilities themselves
            given = logits.softmax(dim=1) @ matrix
            return loss(given.clamp(min=torch.finfo(given.dtype).tiny).log(), targets)

        return corrected

    def _transition(self, given_matrix: np.ndarray | None, classes: int) -> Tensor:
        """T, [K, K]."""
        if given_matrix is not None:
            if len(given_matrix) != classes:
                raise TrickError(f"file: T of {self.file} is for {len(given_matrix)} classes, and there are {classes}")
            return torch.tensor(given_matrix)
        matrix = torch.full((classes, classes), self.noise / max(1, classes - 1), dtype=torch.float64)
        return matrix.fill_diagonal_(1 - self.noise)


def read_transition(path: Path) -> np.ndarray:
    """A matrix T, float64 [K, K], from an `.npy`, or from an `.npz` that holds it as `transition`.

    Raises:
        TrickError: it cannot be read, or its rows are no probabilities.
    """
    try:
        matrix = np.load(path, allow_pickle=False)
        if not isinstance(matrix, np.ndarray):
            with matrix:
                matrix = matrix["transition"]
    except Exception as error:  # numpy and zipfile raise many kinds of errors for a damaged file
        reason = " ".join(str(error).split())
        raise TrickError(f"file must be a matrix as .npy, got {path} (cannot be read: {reason})") from None
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype.kind not in "fiu":
        raise TrickError(f"file must hold numbers [K, K], got {matrix.dtype} {list(matrix.shape)} in {path}")
    if (matrix < 0).any() or not np.allclose(matrix.sum(axis=1), 1, atol=1e-4):
        raise TrickError(f"file must hold probabilities whose rows sum to 1, got {path}, where they do not")
    return matrix.astype(np.float64)
