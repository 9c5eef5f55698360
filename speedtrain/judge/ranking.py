"""Ranks submissions by what decides in a competition.

A submission's score is the mean of its runs (the median, for times). Two kinds of chance make it uncertain: another run
would give another score, and so would other test images. The interval combines both in quadrature: Student's t over the
runs, and over the images Wilson's interval for accuracy, the normal one for other means.

Submissions that do not differ significantly share a rank. A difference of accuracies or areas is significant if two
tests agree at the 5 % level: a paired bootstrap over the images (Efron & Tibshirani, An Introduction to the Bootstrap,
1993; Koehn, EMNLP 2004, uses it to rank systems on one test set), and, if there are at least two runs, Welch's t-test
over the runs. A difference of times is significant if the test of Mann and Whitney (Annals of Mathematical Statistics
1947) over the runs finds it. All tests are scipy's.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from speedtrain.judge.scores import Reached, Scored, shares, time_to_target, worst_class
from speedtrain.judge.settings import Score

RESAMPLES = 9999
LEVEL = 0.05

_RANKS = (
    "Submissions share a rank with the first of their group unless both a paired bootstrap over the test images (Efron "
    "& Tibshirani 1993; Koehn 2004) and Welch's t-test over the runs tell them apart at the 5 % level."
)
_INTERVAL = "The 95 % interval covers both the chance of the runs (Student's t) and that of the test images"


def method(score: Score) -> str:
    """How submissions are ranked, for the board."""
    if score.kind == "accuracy":
        return f"Accuracy is the mean of all runs; a failed run counts as 0. {_INTERVAL} (Wilson). {_RANKS}"
    if score.kind == "balanced_accuracy":
        return (
            "Balanced accuracy is the mean over the classes of the accuracy in each class, and the mean of all runs; a "
            f"failed run counts as 0. {_INTERVAL}. {_RANKS}"
        )
    if score.kind == "worst_class":
        return (
            "The score is the accuracy of the class that a run predicts worst, the mean of all runs; a failed run "
            f"counts as 0. {_INTERVAL}. {_RANKS} The bootstrap draws the images of each class apart."
        )
    if score.kind == "anytime":
        return (
            f"The score is the area under the curve of accuracy over log(1 + t/{score.t0:g} s), a step function from 0 "
            "to 1 on both axes (the AutoDL challenge's), the mean of all runs. The judge copies the weights at up to "
            f"{score.copies} instants; a copy counts from when it was taken until the next one. What was scored before "
            f"a run fails counts on; a run that broke a limit counts as 0. {_INTERVAL}. {_RANKS}"
        )
    assert score.target is not None
    return (
        f"The score is the time until {score.target:.2%} of the test images are predicted correctly and every later "
        "copy of the weights does so too, the median of all runs (of an even number, the later of the two in the "
        "middle); a run that never gets there, or fails, ranks behind. The judge copies the weights at up to "
        f"{score.copies} instants, so the true time lies between a copy and the one before. The interval is the range "
        "of the runs. Submissions share a rank with the first of their group unless the test of Mann and Whitney "
        "(1947) over the runs tells them apart at the 5 % level, which takes at least four runs each."
    )


@dataclass(frozen=True)
class Value:
    """What a submission is ranked by.

    Attributes:
        value: the score; seconds for a time, infinite if it is never reached.
        interval: its 95 % interval; of times, the range of the runs.
        runs: the score of each run.
    """

    value: float
    interval: tuple[float, float]
    runs: list[float]


@dataclass(frozen=True)
class Comparison:
    """Comparison of a submission with a better one.

    Attributes:
        difference: difference of their scores, 0 or less; of times, 0 or more seconds.
        interval: 95 % interval of the difference, over the images; None for times.
        p_runs: p value of the test over the runs; None with a single run.
        significant: whether all tests find a difference.
    """

    difference: float
    interval: tuple[float, float] | None
    p_runs: float | None
    significant: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Measure(Protocol):
    """One kind of score, for all submissions of a board.

    Attributes:
        larger_is_better: whether it is.
    """

    larger_is_better: bool

    def value(self, runs: Sequence[Scored]) -> Value:
        """What a submission is ranked by."""
        ...

    def compare(self, runs: Sequence[Scored], better: Sequence[Scored]) -> Comparison:
        """Compares a submission with a better one."""
        ...


def make_measure(score: Score, labels: np.ndarray, budget: float) -> Measure:
    """The measure of a competition's score.

    Args:
        score: what decides.
        labels: labels of the test images, int64 [N].
        budget: seconds of a training.
    """
    if score.kind == "worst_class":
        return WorstClass(labels)
    if score.kind == "time_to_target":
        assert score.target is not None
        return TimeToTarget(score.target)
    return MeanOverImages(score, labels, budget)


class MeanOverImages:
    """Accuracy, balanced accuracy, or the area under the curve of accuracy. A `Measure`."""

    larger_is_better = True

    def __init__(self, score: Score, labels: np.ndarray, budget: float) -> None:
        self._score, self._labels, self._budget = score, labels, budget

    def _shares(self, runs: Sequence[Scored]) -> np.ndarray:
        return np.stack([shares(self._score, run, self._labels, self._budget) for run in runs])

    def value(self, runs: Sequence[Scored]) -> Value:
        per_run = self._shares(runs)
        count = per_run.shape[1]
        middle, per_image = float(per_run.mean()), per_run.mean(0)
        if self._score.kind == "accuracy":
            from scipy import stats

            found = stats.binomtest(round(middle * count), count).proportion_ci(1 - LEVEL, method="wilson")
            below, above = middle - found.low, found.high - middle
        else:
            below = above = 1.96 * float(per_image.std(ddof=1)) / math.sqrt(count) if count > 1 else 1.0
        return _with_interval(per_run.mean(1), below, above)

    def compare(self, runs: Sequence[Scored], better: Sequence[Scored]) -> Comparison:
        one, other = self._shares(runs), self._shares(better)
        per_image = one.mean(0) - other.mean(0)
        if np.ptp(per_image) == 0:  # resampling would change nothing
            low = high = float(per_image[0])
        else:
            low, high = _bootstrap((per_image,), np.mean)
        return _compared(one.mean(1), other.mean(1), low, high)


class WorstClass:
    """Accuracy of the class that a run predicts worst. A `Measure`."""

    larger_is_better = True

    def __init__(self, labels: np.ndarray) -> None:
        self._labels = labels
        # scipy's bootstrap asks for two values in every sample
        classes = (np.flatnonzero(labels == k) for k in np.unique(labels))
        self._classes = [rows if len(rows) > 1 else np.repeat(rows, 2) for rows in classes]

    def _per_run(self, runs: Sequence[Scored]) -> np.ndarray:
        return np.array([worst_class(run.correct, self._labels) for run in runs])

    def _resampled(self, runs: Sequence[Scored]) -> Callable[..., np.ndarray]:
        """The score for images drawn anew from each class: index arrays [..., n], one per class → [...]."""
        correct = np.stack([run.correct for run in runs])

        def statistic(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
            return np.stack([correct[:, rows].mean(axis) for rows in drawn]).min(0).mean(0)

        return statistic

    def value(self, runs: Sequence[Scored]) -> Value:
        per_run, low_high = self._per_run(runs), _bootstrap(self._classes, self._resampled(runs))
        middle = float(per_run.mean())
        return _with_interval(per_run, max(0.0, middle - low_high[0]), max(0.0, low_high[1] - middle))

    def compare(self, runs: Sequence[Scored], better: Sequence[Scored]) -> Comparison:
        mine, theirs = self._resampled(runs), self._resampled(better)

        def difference(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
            return mine(*drawn, axis=axis) - theirs(*drawn, axis=axis)

        return _compared(self._per_run(runs), self._per_run(better), *_bootstrap(self._classes, difference))


class TimeToTarget:
    """Seconds until an accuracy is reached for good. A `Measure`."""

    larger_is_better = False

    def __init__(self, target: float) -> None:
        self._target = target

    def reached(self, run: Scored) -> Reached:
        """When a run reached the target."""
        return time_to_target(run, self._target)

    def _per_run(self, runs: Sequence[Scored]) -> list[float]:
        return [self.reached(run).seconds for run in runs]

    def value(self, runs: Sequence[Scored]) -> Value:
        times = sorted(self._per_run(runs))
        # of an even number the upper one: the mean of the two may not exist
        return Value(times[len(times) // 2], (times[0], times[-1]), self._per_run(runs))

    def compare(self, runs: Sequence[Scored], better: Sequence[Scored]) -> Comparison:
        from scipy import stats

        one, other = self._per_run(runs), self._per_run(better)
        mine, theirs = self.value(runs).value, self.value(better).value
        difference = mine - theirs if math.isfinite(mine) or math.isfinite(theirs) else 0.0
        p_runs, later = None, False
        if min(len(one), len(other)) > 1:
            found = stats.mannwhitneyu(one, other)
            p_runs, later = float(found.pvalue), found.statistic > len(one) * len(other) / 2
        return Comparison(difference, None, p_runs, p_runs is not None and p_runs < LEVEL and later)


def _with_interval(per_run: np.ndarray, below: float, above: float) -> Value:
    """The mean of the runs, with an interval that adds the chance of the runs to that of the images."""
    from scipy import stats

    spread = 0.0
    if len(per_run) > 1:
        deviation = per_run.std(ddof=1) / math.sqrt(len(per_run))
        spread = stats.t.ppf(1 - LEVEL / 2, len(per_run) - 1) * deviation
    middle = float(per_run.mean())
    low, high = middle - math.hypot(max(0.0, below), spread), middle + math.hypot(max(0.0, above), spread)
    return Value(middle, (max(0.0, low), min(1.0, high)), per_run.tolist())


def _bootstrap(samples: Sequence[np.ndarray], statistic: Callable[..., Any]) -> tuple[float, float]:
    """The 95 % interval of a statistic, by drawing from each sample anew."""
    from scipy import stats

    with warnings.catch_warnings():  # it warns if all draws are equal
        warnings.simplefilter("ignore", RuntimeWarning)
        found = stats.bootstrap(
            tuple(samples),
            statistic,
            n_resamples=RESAMPLES,
            batch=100,
            vectorized=True,
            method="percentile",
            confidence_level=1 - LEVEL,
            rng=np.random.default_rng(0),
        ).confidence_interval
    return float(found.low), float(found.high)


def _compared(one: np.ndarray, other: np.ndarray, low: float, high: float) -> Comparison:
    """The comparison of two submissions by the scores of their runs, and by an interval over the images."""
    from scipy import stats

    p_runs = None
    if min(len(one), len(other)) > 1:
        if np.ptp(one) == np.ptp(other) == 0:  # all runs are equal: the test would divide by zero
            p_runs = float(one[0] == other[0])
        else:
            with warnings.catch_warnings():  # it warns if all runs of one of the two are equal
                warnings.simplefilter("ignore", RuntimeWarning)
                p_runs = float(stats.ttest_ind(one, other, equal_var=False).pvalue)
    significant = high < 0 and (p_runs is None or p_runs < LEVEL)
    return Comparison(float(one.mean() - other.mean()), (low, high), p_runs, significant)


def rank(submissions: Sequence[Sequence[Scored]], measure: Measure) -> list[tuple[int, Comparison | None]]:
    """Ranks submissions.

    Args:
        submissions: the runs of each, the best submission first.
        measure: what decides.

    Returns:
        For each submission its rank, and its comparison with the first submission of the group above (None for the
        very first submission).
    """
    ranks: list[tuple[int, Comparison | None]] = []
    leader = 0
    for index, runs in enumerate(submissions):
        comparison = None
        if index:
            comparison = measure.compare(runs, submissions[leader])
            if comparison.significant:
                leader = index
        ranks.append((leader + 1, comparison))
    return ranks


BEST_POINTS = 10
"""Points of rank 1 in a training set: max(11 - rank, 0), as in the IJCAI 2022 challenge on noisy labels."""


def points(rank: int | None, any_run: bool) -> int:
    """The points of a rank among several training sets.

    Args:
        rank: None if it was not run.
        any_run: whether any run could be scored; without one there are no points.
    """
    return max(BEST_POINTS + 1 - rank, 0) if rank is not None and any_run else 0
