"""From predictions to ranks.

A submission's accuracy is the mean of its runs. Two things make it uncertain: another run would come out
differently, and so would other test images. Its interval adds the two up: Student's t over the runs and Wilson's
interval over the images, in quadrature.

Submissions that are not significantly different share a rank. Significantly different means that both kinds of chance
are ruled out at the 5 % level: the images by a paired bootstrap of the difference image by image (Efron & Tibshirani,
An Introduction to the Bootstrap, 1993; for rankings of systems on one test set Koehn, EMNLP 2004), and, where there
are at least two runs, the runs by Welch's t-test. Both are scipy's.
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
        accuracy: mean over the runs, 0..1.
        interval: 95 %, of that mean.
        per_class: accuracy on each class, likewise the mean.
    """

    accuracy: float
    interval: tuple[float, float]
    per_class: list[float]


@dataclass(frozen=True)
class Comparison:
    """One submission against a better one.

    Attributes:
        difference: of their accuracies, 0 or less.
        interval: 95 %, over the images.
        p_runs: of Welch's test over the runs; None with a single run.
        significant: whether both kinds of chance are ruled out.
    """

    difference: float
    interval: tuple[float, float]
    p_runs: float | None
    significant: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def score(correct: np.ndarray, labels: np.ndarray, num_classes: int) -> Score:
    """Accuracy from which images were right, bool [R, N], in R runs on N images with labels int64 [N]."""
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
    """Compares two submissions by which images were right in their runs: bool [R, N] and [R', N]."""
    from scipy import stats

    per_image = correct.mean(0) - better.mean(0)
    if np.ptp(per_image) == 0:  # nothing that resampling could change
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
        if np.ptp(one) == np.ptp(other) == 0:  # every run the same: the test would divide by zero
            p_runs = float(one[0] == other[0])
        else:
            with warnings.catch_warnings():  # it warns where the runs of one of the two are all the same
                warnings.simplefilter("ignore", RuntimeWarning)
                p_runs = float(stats.ttest_ind(one, other, equal_var=False).pvalue)
    significant = high < 0 and (p_runs is None or p_runs < LEVEL)
    return Comparison(float(per_image.mean()), (low, high), p_runs, significant)


def rank(correct: Sequence[np.ndarray]) -> list[tuple[int, Comparison | None]]:
    """Ranks submissions that are sorted by accuracy, the best first.

    Returns:
        For each its rank, and how it compares with the first of the group before it was placed; None for the very
        first.
    """
    ranks: list[tuple[int, Comparison | None]] = []
    leader = 0
    for place, runs in enumerate(correct):
        comparison = None
        if place:
            comparison = compare(runs, correct[leader])
            if comparison.significant:
                leader = place
        ranks.append((leader + 1, comparison))
    return ranks
