"""The score of a run: its saved weights on the test images, off the clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speedtrain.config import Config
from speedtrain.data import Images
from speedtrain.data.annotators import agreement_with_annotators
from speedtrain.data.image_files import Progress
from speedtrain.model.load import load


@dataclass(frozen=True)
class Score:
    """How good saved weights are.

    Attributes:
        accuracy: share of right answers, 0..1.
        interval: 95 %, of the accuracy, for the chance of the test images.
        balanced_accuracy: mean over the classes of the share of their images that is recognised. Classes without test
            images do not count.
        macro_f1: mean of the F1 scores of these classes.
        class_accuracy: of each class, the share of its images that is recognised; None where it has none.
        probabilities: float32 [N, K], of the test images.
        precision: fp32, bf16 or fp16, in which they were computed.
        of_members: accuracy of each member alone, of a model that has several.
        agreement: share of the predictions that agree with each annotator of the test images (`each`), and with their
            `majority`; None where each has one label.
    """

    accuracy: float
    interval: tuple[float, float]
    balanced_accuracy: float
    macro_f1: float
    class_accuracy: list[float | None]
    probabilities: np.ndarray
    precision: str
    of_members: list[float]
    agreement: Mapping[str, Any] | None = None


def score(weights: Path, test: Images, config: Config, progress: Progress | None = None) -> Score:
    """Predicts the test images with saved weights.

    Args:
        weights: file of a run.
        test: the test images.
        config: for device and threads, both resolved.
        progress: is called with the number of images predicted and their total. Default: none.

    Raises:
        UserError: the weights cannot be read.
    """
    from scipy import stats  # half a second, which bad input need not wait for

    torch.set_num_threads(config.threads or 1)
    predictions = load(weights, device=config.device).predict_all(test.images, progress=progress)
    predicted = predictions.probabilities.argmax(1)
    correct = int((predicted == test.labels).sum())
    # Wilson's is sound near 0 and 1 too, unlike ± 1.96 standard errors
    interval = stats.binomtest(correct, len(predicted)).proportion_ci(method="wilson")
    recall, f1 = of_each_class(test.labels, predicted, len(test.classes))
    shares = dict(zip(np.unique(test.labels).tolist(), recall.tolist(), strict=True))
    bounds = float(interval.low), float(interval.high)
    return Score(
        accuracy=correct / len(predicted),
        interval=bounds,
        balanced_accuracy=float(recall.mean()),
        macro_f1=float(f1.mean()),
        class_accuracy=[shares.get(number) for number in range(len(test.classes))],
        probabilities=predictions.probabilities,
        precision=predictions.precision,
        of_members=[float((each.argmax(1) == test.labels).mean()) for each in predictions.of_members],
        agreement=None if test.votes is None else agreement_with_annotators(predicted, test.votes, test.labels),
    )


MANY, FEW = 100, 20
"""A class with more training images than MANY has many, one with fewer than FEW few (Liu et al., arXiv 1904.05160)."""


def by_size(class_accuracy: Sequence[float | None], train_counts: Sequence[int]) -> dict[str, float] | None:
    """The mean accuracy of the classes with many, medium and few training images; None where all are of one kind.

    Args:
        class_accuracy: of each class; None where it has no test images.
        train_counts: training images of each class.
    """
    kinds: dict[str, list[float]] = {"many": [], "medium": [], "few": []}
    for accuracy, count in zip(class_accuracy, train_counts, strict=True):
        if accuracy is not None:
            kinds["many" if count > MANY else "few" if count < FEW else "medium"].append(accuracy)
    there = {kind: sum(values) / len(values) for kind, values in kinds.items() if values}
    return there if len(there) > 1 else None


def of_each_class(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Recall and F1 score of each class that has images, in order; labels and predictions are int64 [N]."""
    right = np.bincount(labels[labels == predicted], minlength=num_classes)
    images, answers = (np.bincount(numbers, minlength=num_classes) for numbers in (labels, predicted))
    there = images > 0
    return (right / np.maximum(images, 1))[there], (2 * right / np.maximum(images + answers, 1))[there]
