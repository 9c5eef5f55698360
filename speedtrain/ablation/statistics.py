"""The statistics of an ablation: means, paired differences, intervals, Holm's correction; by scipy and statsmodels."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from speedtrain.ablation.design import Comparison

ENOUGH = 3
"""Fewer seeds than this conclude nothing: the interval by Student's t is too wide."""
ALPHA = 0.05
"""The level of the tests; the intervals cover 1 − ALPHA."""


def summarise(trials: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The trials of each variant in one row.

    Args:
        trials: a row per trial, as in `ablation.csv`.
        metric: a key of `METRICS`; `seeds` and `sd` are of this score.

    Returns:
        By variant, in order of appearance: `seeds` (whose score is known), `failed`, `accuracy` and
        `balanced_accuracy` (means, 0..1), `sd` (sample standard deviation over seeds; nan for one),
        `images_per_second` and `epochs` (means).
    """
    groups = trials.groupby("variant", sort=False)
    return pd.DataFrame(
        {
            "seeds": groups[metric].count(),
            "failed": groups["accuracy"].apply(lambda column: int(column.isna().sum())),
            "accuracy": groups["accuracy"].mean(),
            "balanced_accuracy": groups["balanced_accuracy"].mean(),
            "sd": groups[metric].std(),
            "images_per_second": groups["images_per_second"].mean(),
            "epochs": groups["epochs"].mean(),
        }
    ).reset_index()


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dicts."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def compare(trials: pd.DataFrame, comparisons: Sequence[Comparison], metric: str) -> pd.DataFrame:
    """Answers each comparison from the seeds for which the scores of all its variants are known.

    The p-value is from the two-sided paired t-test, and so is the 95 % interval. `p_holm` is the p-value after Holm's
    correction for all comparisons with a p-value (Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979).

    Args:
        trials: a row per trial, as in `ablation.csv`.
        comparisons: the questions.
        metric: the score that is compared, a key of `METRICS`.

    Returns:
        A row per comparison: `label`, `seeds`, `difference`, `low`, `high` (of the score, 0..1), `p`, `p_holm`,
        `speed` and `epochs` (ratios: with it ÷ without it; nan for an interaction), `verdict`.
    """
    scores = trials.pivot(index="seed", columns="variant", values=metric) if len(trials) else pd.DataFrame()
    costs = summarise(trials, metric).set_index("variant") if len(trials) else pd.DataFrame()
    answers = pd.DataFrame([_answer(comparison, scores, costs) for comparison in comparisons])
    tested = answers["p"].notna()
    answers["p_holm"] = np.nan
    if tested.any():
        answers.loc[tested, "p_holm"] = multipletests(answers.loc[tested, "p"], alpha=ALPHA, method="holm")[1]
    answers["verdict"] = [_verdict(row) for row in records(answers)]
    return answers


def _answer(comparison: Comparison, scores: pd.DataFrame, costs: pd.DataFrame) -> dict[str, Any]:
    names = list(comparison.weights)
    weights = np.array(list(comparison.weights.values()))
    row: dict[str, Any] = {"label": comparison.label, "seeds": 0}
    row |= dict.fromkeys(("difference", "low", "high", "p", "speed", "epochs"), float("nan"))
    if not set(names) <= set(scores.columns):
        return row
    shared = scores[names].dropna().to_numpy()  # [seeds, variants]
    row["seeds"] = len(shared)
    if not len(shared):
        return row
    differences = shared @ weights
    row["difference"] = float(differences.mean())
    if len(differences) > 1:
        row |= _t_interval(shared @ weights.clip(min=0), shared @ (-weights).clip(min=0))
    if weights.size == 2 or "×" not in comparison.label:
        row |= _costs(comparison.weights, costs)
    return row


def _t_interval(more: np.ndarray, less: np.ndarray) -> dict[str, float]:
    """Paired t-test of two scores per seed, both [seeds]. Empty where all differences are equal: no spread."""
    if np.ptp(more - less) < 1e-12:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        test = stats.ttest_rel(more, less)
        interval = test.confidence_interval(1 - ALPHA)
    return {"low": float(interval.low), "high": float(interval.high), "p": float(test.pvalue)}


def _costs(weights: Mapping[str, float], costs: pd.DataFrame) -> dict[str, float]:
    more = [name for name, weight in weights.items() if weight > 0]
    less = [name for name, weight in weights.items() if weight < 0]
    ratios = (
        costs.loc[more, ["images_per_second", "epochs"]].mean()
        / costs.loc[less, ["images_per_second", "epochs"]].mean()
    )
    return {"speed": float(ratios["images_per_second"]), "epochs": float(ratios["epochs"])}


def interval_of_mean(scores: Sequence[float] | np.ndarray | pd.Series) -> tuple[float, float]:
    """The 95 % interval of the mean of at least two scores, by Student's t."""
    half_width = stats.sem(scores) * stats.t.ppf(1 - ALPHA / 2, len(scores) - 1)
    mean = float(np.mean(scores))
    return mean - half_width, mean + half_width


def _verdict(row: Mapping[str, Any]) -> str:
    if row["seeds"] < ENOUGH:
        return "too few seeds to conclude"
    if np.isnan(row["p"]):
        return "no spread between seeds: no interval"
    if row["p_holm"] < ALPHA:
        return "helps" if row["difference"] > 0 else "harms"
    return "not shown either way"
