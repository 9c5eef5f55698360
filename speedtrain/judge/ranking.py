"""Ranks submissions by their correct predictions.

A submission's accuracy is the mean of its runs. Two kinds of chance make it uncertain: another run would give another
accuracy, and so would other test images. The interval combines both in quadrature: Student's t over the runs, and
Wilson's interval over the images.

Submissions that do not differ significantly share a rank. A difference is significant if two tests agree at the 5 %
level: a paired bootstrap over the images (Efron & Tibshirani, An Introduction to the Bootstrap, 1993; Koehn, EMNLP
2004, uses it to rank systems on one test set), and, if there are at least two runs, Welch's t-test over the runs.
Both tests are scipy's.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RESAMPLES = 9999
LEVEL = 0.05

METHOD = (
    "Accuracy is the mean of all runs; a failed run counts as 0. The 95 % interval covers both the chance of the runs "
    "(Student's t) and that of the test images (Wilson). Submissions share a rank with the first of their group unless "
    "both a paired bootstrap over the test images (Efron & Tibshirani 1993; Koehn 2004) and Welch's t-test over the "
    "runs tell them apart at the 5 % level."
)


@dataclass(frozen=True)
class Score:
    """Accuracy of a submission.

    Attributes:
        accuracy: mean over the runs, from 0 to 1.
        interval: 95 % interval of that mean.
        per_class: accuracy on each class, the mean over the runs.
    """

    accuracy: float
    interval: tuple[float, float]
    per_class: list[float]


@dataclass(frozen=True)
class Comparison:
    """Comparison of a submission with a better one.

    Attributes:
        difference: difference of their accuracies, 0 or less.
        interval: 95 % interval of the difference, over the images.
        p_runs: p value of Welch's test over the runs; None with a single run.
        significant: whether both tests find a difference.
    """

    difference: float
    interval: tuple[float, float]
    p_runs: float | None
    significant: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def score(correct: np.ndarray, labels: np.ndarray, num_classes: int) -> Score:
    """Scores a submission.

    Args:
        correct: which images each run predicted correctly, bool [R, N].
        labels: labels of the images, int64 [N].
        num_classes: number of classes.
    """
    from scipy import stats

    runs, count = correct.shape
    accuracy = float(correct.mean())
    per_image = correct.mean(0)
    images = stats.binomtest(round(accuracy * count), count).proportion_ci(1 - LEVEL, method="wilson")
    spread = 0.0
    if runs > 1:
        deviation = correct.mean(1).std(ddof=1) / math.sqrt(runs)
        spread = stats.t.ppf(1 - LEVEL / 2, runs - 1) * deviation
    low = accuracy - math.hypot(max(0.0, accuracy - images.low), spread)
    high = accuracy + math.hypot(max(0.0, images.high - accuracy), spread)
    per_class = [float(per_image[labels == k].mean()) for k in range(num_classes)]
    return Score(accuracy, (max(0.0, low), min(1.0, high)), per_class)


def compare(correct: np.ndarray, better: np.ndarray) -> Comparison:
    """Compares two submissions.

    Args:
        correct: which images each run of the one predicted correctly, bool [R, N].
        better: the same of the better one, bool [R', N].
    """
    from scipy import stats

    per_image = correct.mean(0) - better.mean(0)
    if np.ptp(per_image) == 0:  # resampling would change nothing
        low = high = float(per_image[0])
    else:
        found = stats.bootstrap(
            (per_image,),
            np.mean,
            n_resamples=RESAMPLES,
            batch=100,
            method="percentile",
            confidence_level=1 - LEVEL,
            rng=np.random.default_rng(0),
        ).confidence_interval
        low, high = float(found.low), float(found.high)
    one, other = correct.mean(1), better.mean(1)
    p_runs = None
    if min(len(one), len(other)) > 1:
        if np.ptp(one) == np.ptp(other) == 0:  # all runs are equal: the test would divide by zero
            p_runs = float(one[0] == other[0])
        else:
            with warnings.catch_warnings():  # it warns if all runs of one of the two are equal
                warnings.simplefilter("ignore", RuntimeWarning)
                p_runs = float(stats.ttest_ind(one, other, equal_var=False).pvalue)
    significant = high < 0 and (p_runs is None or p_runs < LEVEL)
    return Comparison(float(per_image.mean()), (low, high), p_runs, significant)


def rank(correct: Sequence[np.ndarray]) -> list[tuple[int, Comparison | None]]:
    """Ranks submissions.

    Args:
        correct: for each submission, which images each run predicted correctly, bool [R, N]; sorted by accuracy, the
            best first.

    Returns:
        For each submission its rank, and its comparison with the first submission of the group above (None for the
        very first submission).
    """
    ranks: list[tuple[int, Comparison | None]] = []
    leader = 0
    for index, runs in enumerate(correct):
        comparison = None
        if index:
            comparison = compare(runs, correct[leader])
            if comparison.significant:
                leader = index
        ranks.append((leader + 1, comparison))
    return ranks
