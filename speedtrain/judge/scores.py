"""From the predictions of a run to the number that decides: the kinds of `score` of a competition.

Most kinds are a mean over the test images of what each image adds (`shares`), so that intervals and tests over images
are the same for all of them. The accuracy of the worst class and the time to a target are not.

Sources: the area under the learning curve is that of the AutoDL challenge (Liu et al., Winning Solutions and
Post-Challenge Analyses of the ChaLearn AutoDL Challenge 2019, IEEE TPAMI 2021, equation 1); the time to a target counts
as in MLPerf Training (Mattson et al., 2020, arXiv 1910.01500), whose runs end at the target: here it must be kept.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from speedtrain.judge.settings import Score


@dataclass(frozen=True)
class Scored:
    """A run with the labels known.

    Attributes:
        correct: which test images it predicts correctly at its end, bool [N]; none if it failed.
        copies: seconds → which images the weights of that instant predict correctly, bool [N]; in order of time.
        end: seconds from which the weights of the end count.
        failed: whether the weights of the end cannot be scored.
        void: whether the run broke a limit, so that its copies count for nothing too.
    """

    correct: np.ndarray
    copies: Sequence[tuple[float, np.ndarray]] = ()
    end: float = 0.0
    failed: bool = False
    void: bool = False

    @property
    def curve(self) -> list[tuple[float, np.ndarray]]:
        """All that was scored, in order of time, the end included."""
        if self.void:
            return []
        return [*self.copies, *([] if self.failed else [(self.end, self.correct)])]


def curve_weights(times: Sequence[float], budget: float, t0: float) -> np.ndarray:
    """How much of the area each point of a step function stands for.

    The function is 0 before the first point, keeps each value until the next point, and the last until the budget. The
    axis is log(1 + t/t0) / log(1 + budget/t0), from 0 to 1.

    Args:
        times: seconds of the points, in order [C].
        budget: seconds of the whole axis.
        t0: seconds.

    Returns:
        float [C]; their sum is the part of the axis behind the first point.
    """
    on_axis = np.log1p(np.minimum(times, budget) / t0) / math.log1p(budget / t0)
    return np.diff(on_axis, append=1.0)


def shares(score: Score, run: Scored, labels: np.ndarray, budget: float) -> np.ndarray:
    """What each test image adds to a run's score: float [N], whose mean is the score.

    Args:
        score: accuracy, balanced_accuracy or anytime.
        run: the run.
        labels: labels of the images, int64 [N].
        budget: seconds of the training.
    """
    if score.kind == "accuracy":
        return run.correct.astype(np.float64)
    if score.kind == "balanced_accuracy":
        counts = np.bincount(labels)
        return run.correct * (len(labels) / (np.count_nonzero(counts) * counts[labels]))
    assert score.kind == "anytime"
    curve = run.curve
    if not curve:
        return np.zeros(len(labels))
    weights = curve_weights([seconds for seconds, _ in curve], budget, score.t0)
    return sum(weight * correct for weight, (_, correct) in zip(weights, curve, strict=True))


def worst_class(correct: np.ndarray, labels: np.ndarray) -> float:
    """The smallest accuracy of a class, of those with test images.

    Args:
        correct: bool [N].
        labels: int64 [N].
    """
    counts = np.bincount(labels)
    return float((np.bincount(labels, correct)[counts > 0] / counts[counts > 0]).min())


@dataclass(frozen=True)
class Reached:
    """When a run reached a target.

    Attributes:
        seconds: of the first copy at or above the target after which none is below it; infinite if there is none.
        after: seconds of the look before, 0 if there is none. The target was reached after it: looks are apart.
    """

    seconds: float
    after: float


def time_to_target(run: Scored, target: float) -> Reached:
    """When a run reached an accuracy for good.

    Args:
        run: the run.
        target: the accuracy, from 0 to 1.
    """
    reached = Reached(math.inf, 0.0)
    before = 0.0
    for seconds, correct in run.curve:
        if correct.mean() < target:
            reached = Reached(math.inf, 0.0)
        elif reached.seconds == math.inf:
            reached = Reached(seconds, before)
        before = seconds
    return reached if not run.failed else Reached(math.inf, 0.0)
