"""Ranks against what chance really does."""

import numpy as np
import pytest
from scipy import stats

from speedtrain.judge import ranking
from speedtrain.judge.ranking import Comparison, Value, make_measure
from speedtrain.judge.scores import Scored
from speedtrain.judge.settings import Score


def runs_of(accuracy: float, runs: int, images: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((runs, images)) < accuracy


def accuracy_of(images: int) -> ranking.Measure:
    return make_measure(Score(), np.zeros(images, np.int64), 60.0)


def scored(correct: np.ndarray) -> list[Scored]:
    return [Scored(row) for row in correct]


def score(correct: np.ndarray) -> Value:
    return accuracy_of(correct.shape[1]).value(scored(correct))


def compare(correct: np.ndarray, better: np.ndarray) -> Comparison:
    return accuracy_of(correct.shape[1]).compare(scored(correct), scored(better))


def rank(correct: list[np.ndarray]) -> list[tuple[int, Comparison | None]]:
    return ranking.rank([scored(each) for each in correct], accuracy_of(correct[0].shape[1]))


def test_an_accuracy_is_the_mean_and_its_interval_covers_it_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        found = score(runs_of(0.8, 3, 400, seed))
        covered += found.interval[0] <= 0.8 <= found.interval[1]
    assert covered >= 185  # 190 expected; it errs to the safe side


def test_a_perfect_score_is_not_certain() -> None:
    low, high = score(np.ones((1, 50), bool)).interval
    assert high == 1
    assert low == pytest.approx(stats.binomtest(50, 50).proportion_ci(method="wilson").low)


def test_equals_share_a_rank_and_the_next_takes_its_place() -> None:
    good, same, worse = (runs_of(accuracy, 3, 2000, seed) for accuracy, seed in ((0.9, 1), (0.899, 2), (0.8, 3)))
    assert [place for place, _ in rank([good, same, worse])] == [1, 1, 3]


def test_a_copy_is_never_worse_than_itself() -> None:
    runs = runs_of(0.9, 3, 500, 0)
    found = compare(runs, runs)
    assert not found.significant
    assert found.difference == 0


def test_equal_programs_are_rarely_told_apart() -> None:
    wrong = 0
    for seed in range(60):
        pair = sorted((runs_of(0.8, 3, 300, 2 * seed + k) for k in (0, 1)), key=np.mean)
        wrong += compare(*pair).significant
    assert wrong <= 6


def test_with_one_run_it_agrees_with_mcnemar() -> None:
    for seed, accuracy in enumerate((0.70, 0.74, 0.76, 0.79, 0.8)):
        worse, better = runs_of(accuracy, 1, 1000, 2 * seed), runs_of(0.8, 1, 1000, 2 * seed + 1)
        only_worse, only_better = (worse & ~better).sum(), (better & ~worse).sum()
        p = stats.binomtest(only_worse, only_worse + only_better).pvalue
        if not 0.03 < p < 0.08 and only_worse < only_better:
            assert compare(worse, better).significant == (p < 0.05)


def test_a_lucky_run_does_not_make_a_difference() -> None:
    """Many images, so that these alone would tell the two apart; but the runs vary as much as they differ."""
    one = np.concatenate([runs_of(accuracy, 1, 20_000, seed) for seed, accuracy in enumerate((0.90, 0.84, 0.87))])
    other = np.concatenate([runs_of(accuracy, 1, 20_000, 9 + seed) for seed, accuracy in enumerate((0.89, 0.91, 0.85))])
    found = compare(one, other)
    assert found.interval[1] < 0
    assert found.p_runs is not None
    assert found.p_runs > 0.05
    assert not found.significant


def test_runs_that_are_all_the_same_are_compared_too() -> None:
    one, other = np.zeros((3, 100), bool), np.ones((3, 100), bool)
    assert compare(one, other).significant
    assert not compare(one, one).significant
