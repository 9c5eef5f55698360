"""The score of a run: its saved weights on the test images, off the clock."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from speedtrain.config import Config
from speedtrain.data import Images
from speedtrain.model.load import load_model
from speedtrain.model.predict import predict


@dataclass(frozen=True)
class Score:
    """How good saved weights are.

    Attributes:
        accuracy: share of right answers, 0..1.
        interval: 95 %, of the accuracy, for the chance of the test images.
        balanced_accuracy: mean over the classes of the share of their images that is recognised. Classes without test
            images do not count.
        macro_f1: mean of the F1 scores of these classes.
        probabilities: float32 [N, K], of the test images.
    """

    accuracy: float
    interval: tuple[float, float]
    balanced_accuracy: float
    macro_f1: float
    probabilities: np.ndarray


def score(weights: Path, test: Images, config: Config) -> Score:
    """Predicts the test images with saved weights.

    Args:
        weights: file of a run.
        test: the test images.
        config: for device and threads, both resolved.

    Raises:
        UserError: the weights cannot be read.
    """
    from scipy import stats  # half a second, which bad input need not wait for

    torch.set_num_threads(config.threads or 1)
    probabilities = predict(load_model(weights), test.images, torch.device(config.device))
    predicted = probabilities.argmax(1)
    correct = int((predicted == test.labels).sum())
    # Wilson's is sound near 0 and 1 too, unlike ± 1.96 standard errors
    interval = stats.binomtest(correct, len(predicted)).proportion_ci(method="wilson")
    recall, f1 = of_each_class(test.labels, predicted, len(test.classes))
    bounds = float(interval.low), float(interval.high)
    return Score(correct / len(predicted), bounds, float(recall.mean()), float(f1.mean()), probabilities)


def of_each_class(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Recall and F1 score of each class that has images, in order; labels and predictions are int64 [N]."""
    right = np.bincount(labels[labels == predicted], minlength=num_classes)
    images, answers = (np.bincount(numbers, minlength=num_classes) for numbers in (labels, predicted))
    there = images > 0
    return (right / np.maximum(images, 1))[there], (2 * right / np.maximum(images + answers, 1))[there]
