"""The kinds of score, against sums written out and integrals taken by a library."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.metrics import balanced_accuracy_score

from speedtrain.judge.learning_curves import curves_figure, mean_curve
from speedtrain.judge.ranking import TimeToTarget, make_measure, points, rank
from speedtrain.judge.scores import Reached, Scored, curve_weights, shares, time_to_target, worst_class
from speedtrain.judge.settings import Score

LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2])


def right(count: int, images: int = 10) -> np.ndarray:
    return np.arange(images) < count


def run(*accuracies: tuple[float, int], end: tuple[float, int] | None, void: bool = False) -> Scored:
    """A run by (seconds, images of ten that are right) of its copies, and of its end; None: it failed."""
    copies = [(seconds, right(count)) for seconds, count in accuracies]
    seconds, count = end or (100.0, 0)
    return Scored(right(count), copies, seconds, failed=end is None, void=void)


def area(curve: list[tuple[float, float]], budget: float, t0: float) -> float:
    """The area under a step function, by quadrature over u = log(1 + t/t0) / log(1 + budget/t0)."""

    def height(u: float) -> float:
        seconds = t0 * (math.exp(u * math.log(1 + budget / t0)) - 1)
        return next((accuracy for at, accuracy in reversed(curve) if at <= seconds), 0.0)

    steps = [math.log(1 + at / t0) / math.log(1 + budget / t0) for at, _ in curve]
    edges = sorted({0.0, 1.0, *steps})
    return sum(integrate.quad(height, low + 1e-12, high - 1e-12)[0] for low, high in itertools.pairwise(edges))


def test_an_area_is_the_integral_over_the_logarithm_of_time() -> None:
    score = Score("anytime", t0=7.0)
    for one, curve in (
        (run((1.0, 3), (20.0, 5), (60.0, 7), end=(100.0, 9)), [(1.0, 0.3), (20.0, 0.5), (60.0, 0.7)]),
        (run((2.5, 8), end=(50.0, 4)), [(2.5, 0.8), (50.0, 0.4)]),  # it ended by itself, and got worse
        (run((2.5, 8), end=None), [(2.5, 0.8)]),  # what was scored before it failed counts on
    ):
        assert shares(score, one, LABELS, 100.0).mean() == pytest.approx(area(curve, 100.0, 7.0))


def test_a_perfect_run_from_the_start_has_area_one_and_a_late_or_void_one_none() -> None:
    score = Score("anytime", t0=7.0)
    assert shares(score, run((0.0, 10), end=(100.0, 10)), LABELS, 100.0).mean() == pytest.approx(1)
    assert shares(score, run(end=(100.0, 10)), LABELS, 100.0).mean() == pytest.approx(0)
    assert shares(score, run((1.0, 10), end=(100.0, 10), void=True), LABELS, 100.0).mean() == 0
    assert curve_weights([0.0, 100.0], 100.0, 7.0).tolist() == pytest.approx([1, 0])


def test_balanced_accuracy_and_the_worst_class_are_those_of_the_library() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.integers(0, 3, 10)
    one = Scored(predicted == LABELS)
    expected = balanced_accuracy_score(LABELS, predicted)
    assert shares(Score("balanced_accuracy"), one, LABELS, 9.0).mean() == pytest.approx(expected)
    per_class = [np.mean(predicted[label == LABELS] == label) for label in range(3)]
    assert worst_class(one.correct, LABELS) == pytest.approx(min(per_class))
    gap = LABELS + (LABELS == 2)  # class 2 has no test images
    assert worst_class(predicted == gap, gap) == pytest.approx(
        min(np.mean(predicted[gap == k] == k) for k in (0, 1, 3))
    )


def test_a_target_is_reached_when_it_is_kept() -> None:
    assert time_to_target(run((1, 3), (5, 8), (9, 9), end=(100, 9)), 0.8) == Reached(5, 1)
    assert time_to_target(run((1, 8), (5, 3), (9, 9), end=(100, 9)), 0.8) == Reached(9, 5)
    assert time_to_target(run((1, 8), (5, 9), end=(100, 7)), 0.8).seconds == math.inf
    assert time_to_target(run((1, 8), end=None), 0.8).seconds == math.inf
    assert time_to_target(run(end=(60, 9)), 0.8) == Reached(60, 0)


def test_times_are_medians_ranked_by_mann_and_whitney() -> None:
    measure = TimeToTarget(0.8)
    fast, slow, never = (
        [run((at + k, 9), end=(100, 9)) for k in range(5)] if at else [run(end=(100, 1))] * 5 for at in (5, 40, 0)
    )
    assert measure.value(fast).value == 7
    assert measure.value(fast).interval == (5, 9)
    assert measure.value(never).value == math.inf
    places = rank([fast, slow, never], measure)
    assert [place for place, _ in places] == [1, 2, 3]
    expected = stats.mannwhitneyu([40, 41, 42, 43, 44], [5, 6, 7, 8, 9]).pvalue
    assert places[1][1] is not None
    assert places[1][1].p_runs == pytest.approx(expected)
    assert [place for place, _ in rank([fast[:3], slow[:3]], measure)] == [1, 1]  # three runs cannot tell
    assert [place for place, _ in rank([never, never], measure)] == [1, 1]


def test_the_worst_class_is_ranked_with_all_images_of_a_class_drawn_anew() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 400)
    measure = make_measure(Score("worst_class"), labels, 9.0)

    def runs(first: float, second: float) -> list[Scored]:
        return [Scored(rng.random(800) < np.repeat([first, second], 400)) for _ in range(4)]

    even, uneven = runs(0.8, 0.8), runs(0.99, 0.6)  # the latter is as good on the average
    assert [place for place, _ in rank([even, uneven], measure)] == [1, 2]
    value = measure.value(uneven)
    assert value.value == pytest.approx(
        np.mean([min(one.correct[:400].mean(), one.correct[400:].mean()) for one in uneven])
    )
    assert value.interval[0] < 0.6 < value.interval[1]


@pytest.mark.parametrize("kind", ["balanced_accuracy", "anytime", "worst_class"])
def test_intervals_cover_the_truth_about_as_often_as_they_say(kind: str) -> None:
    labels = np.repeat([0, 1], [150, 50])
    score = Score(kind, t0=10.0)  # type: ignore[arg-type]
    measure = make_measure(score, labels, 100.0)
    truth = {"balanced_accuracy": 0.7, "anytime": 0.7, "worst_class": 0.6}[kind]
    covered = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        chance = np.where(labels == 0, 0.8, 0.6) if kind != "anytime" else np.full(200, 0.7)
        runs = [Scored(now := rng.random(200) < chance, [(0.0, now)], 100.0) for _ in range(3)]
        low, high = measure.value(runs).interval
        covered += low <= truth <= high
    assert covered >= 35


def test_a_copy_begun_a_moment_after_the_end_counts_from_the_end() -> None:
    weights = curve_weights([9.0, 10.0, 10.0], 10.0, 1.0)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1 - np.log1p(9) / np.log1p(10))
    late = {"id": "01", "name": "a", "runs": [{"curve": [{"seconds": 10.0, "accuracy": 0.5}]}]}
    assert "Accuracy against time" in curves_figure([late], 1.0, 10.0, "h2")
    assert curves_figure([{**late, "runs": [{"curve": []}]}], 1.0, 10.0, "h2") == ""


def test_points_are_those_of_the_ranks() -> None:
    assert [points(place, True) for place in (1, 2, 10, 11, 40, None)] == [10, 9, 1, 0, 0, 0]
    assert points(1, False) == 0


def test_a_mean_curve_is_the_mean_of_the_steps() -> None:
    one = {"curve": [{"seconds": 1.0, "accuracy": 0.2}, {"seconds": 4.0, "accuracy": 0.6}]}
    other = {"curve": [{"seconds": 2.0, "accuracy": 0.4}]}
    np.testing.assert_allclose(mean_curve([one, other], 9.0), [(1.0, 0.1), (2.0, 0.3), (4.0, 0.5)])
