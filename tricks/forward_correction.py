"""Forward correction of the loss."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tricks.trick import Batch, Loss, Trick, TrickError, whole_batch

ESTIMATE_AT = 0.3
"""Progress from which the noise is estimated from confident images: every image has been seen by then in all but the
shortest trainings, and few wrong labels are learned by heart. Not measured against other values."""


@dataclass
class ForwardCorrection(Trick):
    """Tells the loss how labels were made wrong, so that the network learns the true ones.

    T is the noise: T[i, j] is the probability that an image of class i was given label j. The network's probabilities p
    of the true class become those of the given label (section 4.1 of the paper):

        loss(log(Tᵀ p), given label)

    The network itself predicts p, the true class. Where T is not known, it can be estimated:

    - `confident`: from the network's own answers. The first 30 % of training use the given labels as they are. An image
      then counts as one of class j if p_j is at least the mean p_j of the images with label j (of several such classes,
      the one with the largest p). T follows from how often such images have each label (Northcutt et al., Confident
      Learning, 2019, arXiv 1911.00068, section 3.1).
    - `annotators`: from images with labels of several people. `speedtrain` estimates T before training, and gives it as
      `matrix`; see `speedtrain/data/annotators.py`.

    Args:
        noise: the probability of a wrong label, at least 0 and below 1, where each wrong label is as likely; or
            confident or annotators, to estimate T. Default: 0.2.
        file: path of a matrix T as `.npy`, float [K, K], or of an `.npz` that holds it as `transition`, instead of
            `noise`. Default: empty.
        matrix: T for `noise: annotators`, K rows of K numbers; without effect for any other noise. Default: ().
    """

    noise: float | Literal["confident", "annotators"] = 0.2
    file: str = ""
    matrix: tuple[tuple[float, ...], ...] = ()

    interacts: ClassVar[str] = (
        "label_smoothing smooths the given label. logit_adjustment takes the shares of the given labels, which noise "
        "may have changed: leave it out. generalized_cross_entropy may be the loss. With noise: confident, leave out "
        "cutmix and mixup, whose images show two classes, and meta_warmup, which computes on half batches; under "
        "DistributedDataParallel, each process has its own estimate."
    )
    paper: ClassVar[str] = "Patrini et al., Making Deep Neural Networks Robust to Label Noise, 2017 (arXiv 1609.03683)"

    def __post_init__(self) -> None:
        if self.noise not in ("confident", "annotators") and not (
            isinstance(self.noise, int | float) and 0 <= self.noise < 1
        ):
            raise TrickError(f"noise must be at least 0 and below 1, or confident or annotators, got {self.noise!r}")
        if self.file and isinstance(self.noise, str):
            raise TrickError(f"file must be empty where noise is {self.noise}, got {self.file}: leave one out")
        self._given: Tensor | None = None
        if self.matrix:
            given = torch.tensor(_probabilities(_rows(self.matrix), "matrix", ""))
            self._given = given if self.noise == "annotators" else None
        self._labels: Tensor | None = None
        self._ids: Tensor | None = None
        self._progress = 0.0
        self._fresh = False
        self._seen: Tensor | None = None
        self._estimated: Tensor | None = None

    @property
    def _by_confidence(self) -> bool:
        return self.noise == "confident"

    def data(self, images: Tensor, labels: Tensor) -> None:
        self._labels = labels

    def batch(self, batch: Batch) -> Batch:
        if self._by_confidence:
            if batch.ids is None or self._labels is None:
                raise TrickError(
                    "forward_correction with noise: confident keeps the answer for each image: call data(images, "
                    "labels) first, and give Batch(..., ids=...)"
                )
            self._ids, self._progress, self._fresh = batch.ids, batch.progress, True
        return batch

    def loss(self, loss: Loss) -> Loss:
        # a file is read here, and not before, since predictions do without it
        if self.file:
            self._given = torch.tensor(read_transition(Path(self.file)))
        if self.noise == "annotators" and self._given is None:
            raise TrickError(
                "forward_correction.noise: annotators needs several labels for each image; give a number, or confident"
            )

        def corrected(logits: Tensor, targets: Tensor) -> Tensor:
            if self._by_confidence:
                self._observe(logits)
                if self._estimated is None:
                    return loss(logits, targets)
                matrix = self._estimated
            else:
                if self._given is None:
                    self._given = _symmetric(float(self.noise), logits.shape[1])
                matrix = self._given = self._given.to(logits.device)
            if len(matrix) != logits.shape[1]:
                source = f"file: T of {self.file}" if self.file else "matrix: T"
                raise TrickError(f"{source} is for {len(matrix)} classes, and there are {logits.shape[1]}")
            # of log-probabilities the softmax is the probabilities themselves
            given = logits.softmax(dim=1) @ matrix.to(logits)
            return loss(given.clamp(min=torch.finfo(given.dtype).tiny).log(), targets)

        return corrected

    def _observe(self, logits: Tensor) -> None:
        """Keeps the answers to a step's images until the noise is estimated from them, once."""
        if self._estimated is not None:
            return
        ids = whole_batch(self._ids, logits, "forward_correction with noise: confident")
        assert self._labels is not None
        if not self._fresh:  # the second pass of sam
            return
        self._fresh = False
        if self._seen is None:
            self._seen = logits.new_full((len(self._labels), logits.shape[1]), float("nan"))
        self._seen[ids] = logits.detach().softmax(dim=1).to(self._seen)
        if self._progress >= ESTIMATE_AT:
            known = self._seen.isfinite().all(dim=1)  # neither an overflow nor an image that was not seen yet
            labels = self._labels.to(known.device)[known]
            self._estimated = confident_transition(self._seen[known], labels)
            self._seen = None

    def state(self) -> dict[str, Any]:
        if not self._by_confidence:
            return {}
        kept = {"seen": self._seen, "estimated": self._estimated}
        return {name: None if value is None else value.clone() for name, value in kept.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        if self._by_confidence:
            self._seen, self._estimated = (
                None if state[name] is None else state[name].clone() for name in ("seen", "estimated")
            )


def _symmetric(noise: float, classes: int) -> Tensor:
    """T where each wrong label is as likely, float64 [K, K]."""
    matrix = torch.full((classes, classes), noise / max(1, classes - 1), dtype=torch.float64)
    return matrix.fill_diagonal_(1 - noise)


def confident_transition(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The noise T, float64 [K, K], estimated from confident answers; see `ForwardCorrection`.

    A class of which no image is sure has no noise in T.

    Args:
        probabilities: of each class for M images, [M, K].
        labels: the given ones, int64 [M].
    """
    p, classes = probabilities.double(), probabilities.shape[1]
    given = F.one_hot(labels, classes).to(p)  # [M, K]
    counts = given.sum(dim=0)
    # a class without an image has no threshold that anything could reach
    thresholds = torch.where(counts > 0, (given * p).sum(dim=0) / counts.clamp(min=1), torch.inf)
    sure = p >= thresholds
    counted = sure.any(dim=1)
    true = torch.where(sure, p, -1.0).argmax(dim=1)
    joint = given[counted].T @ F.one_hot(true[counted], classes).to(p)  # [given label, true class]
    rows = joint.sum(dim=1, keepdim=True)
    # of a label none of whose images is sure: all its images are right
    joint = torch.where(rows > 0, joint / rows.clamp(min=1), torch.eye(classes).to(p)) * counts[:, None]
    columns = joint.sum(dim=0, keepdim=True)
    return torch.where(columns > 0, joint / columns.clamp(min=1e-300), torch.eye(classes).to(p)).T.contiguous()


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
    return _probabilities(matrix, "file", f" in {path}")


def _rows(matrix: tuple[tuple[float, ...], ...]) -> np.ndarray:
    if len({len(row) for row in matrix}) > 1:
        raise TrickError(f"matrix must hold rows of equal length, got {[len(row) for row in matrix]}")
    return np.array(matrix)


def _probabilities(matrix: np.ndarray, key: str, where: str) -> np.ndarray:
    """The matrix in float64.

    Raises:
        TrickError: it is not square, or its rows are no probabilities.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype.kind not in "fiu":
        raise TrickError(f"{key} must hold numbers [K, K], got {matrix.dtype} {list(matrix.shape)}{where}")
    if (matrix < 0).any() or not np.allclose(matrix.sum(axis=1), 1, atol=1e-4):
        raise TrickError(f"{key} must hold probabilities whose rows sum to 1, got others{where}")
    return matrix.astype(np.float64)
