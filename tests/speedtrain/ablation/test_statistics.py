"""Statistics and tables, from recorded results through the real files."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from speedtrain.ablation.design import Comparison
from speedtrain.ablation.report import COLUMNS, write_tables

QUESTIONS = [Comparison("good", {"all": 1, "without good": -1}), Comparison("idle", {"all": 1, "without idle": -1})]
FACTS = {"budget_seconds": 60, "design": "drop-one", "workers": 1, "data": "<digits>"}


def rows(scores: dict[str, list[float | None]]) -> list[dict[str, Any]]:
    """Trials with these accuracies, seed by seed; None has failed. By balanced accuracy, what is better is worse."""
    made = []
    for variant, accuracies in scores.items():
        for seed, accuracy in enumerate(accuracies):
            row: dict[str, Any] = dict.fromkeys(COLUMNS)
            row |= {"variant": variant, "seed": seed, "accuracy": accuracy, "run": f"trials/{variant}/seed-{seed}/run"}
            row |= {"status": "finished"} if accuracy is not None else {"status": "failed", "error": "it <burst>"}
            if accuracy is not None:
                row |= {"balanced_accuracy": 1 - accuracy, "epochs": 10.0}
                row |= {"images_per_second": 100.0 if variant == "all" else 125.0}
            made.append(row)
    return made


SCORES: dict[str, list[float | None]] = {
    "all": [0.80, 0.82, 0.78, 0.81, 0.79],
    "without good": [0.75, 0.765, 0.73, 0.77, 0.735],
    "without idle": [0.79, 0.825, 0.785, 0.80, 0.795],
}


def answers_of(table: Any) -> dict[str, dict[str, Any]]:
    return {row["label"]: row for row in table.attrs["comparisons"]}


@pytest.mark.parametrize(("metric", "sign"), [("accuracy", 1), ("balanced_accuracy", -1)])
def test_intervals_are_paired_and_corrected(metric: str, sign: int, tmp_path: Path) -> None:
    answers = answers_of(write_tables(tmp_path, rows(SCORES), QUESTIONS, FACTS, 15, metric))
    for name, question in (("good", "without good"), ("idle", "without idle")):
        differences = sign * (np.array(SCORES["all"], float) - np.array(SCORES[question], float))
        half = stats.t.ppf(0.975, 4) * differences.std(ddof=1) / 5**0.5
        assert answers[name]["difference"] == pytest.approx(differences.mean())
        assert answers[name]["low"] == pytest.approx(differences.mean() - half)
        assert answers[name]["high"] == pytest.approx(differences.mean() + half)
        t = differences.mean() / differences.std(ddof=1) * 5**0.5
        assert answers[name]["p"] == pytest.approx(2 * stats.t.sf(abs(t), 4))
    assert answers["good"]["p_holm"] == pytest.approx(2 * answers["good"]["p"])  # the smaller of two
    assert answers["idle"]["p_holm"] == pytest.approx(answers["idle"]["p"])
    assert answers["good"]["verdict"] == {1: "helps", -1: "harms"}[sign]
    assert answers["idle"]["verdict"] == "not shown either way"
    assert answers["good"]["speed"] == pytest.approx(0.8)
    words = metric.replace("_", " ")
    assert f"; compared by {words}.\n" in (tmp_path / "ablation.md").read_text()
    assert f"by seed: {words} with it minus without it" in (tmp_path / "ablation.md").read_text()
    assert f"{words.capitalize()} gained by having it" in (tmp_path / "ablation.html").read_text()


def test_a_trick_that_harms_is_reported_so(tmp_path: Path) -> None:
    turned = {**SCORES, "all": SCORES["without good"], "without good": SCORES["all"]}
    assert answers_of(write_tables(tmp_path, rows(turned), QUESTIONS[:1], FACTS, 15))["good"]["verdict"] == "harms"


def test_two_seeds_conclude_nothing(tmp_path: Path) -> None:
    few = {name: accuracies[:2] for name, accuracies in SCORES.items()}
    table = write_tables(tmp_path, rows(few), QUESTIONS, FACTS, 6)
    assert {row["verdict"] for row in table.attrs["comparisons"]} == {"too few seeds to conclude"}
    assert "too few seeds to conclude" in (tmp_path / "ablation.md").read_text()


def test_equal_differences_and_single_seeds_have_no_interval(tmp_path: Path) -> None:
    same = {"all": [0.5] * 4, "without good": [0.4] * 4}
    answer = answers_of(write_tables(tmp_path, rows(same), QUESTIONS[:1], FACTS, 8))["good"]
    assert answer["difference"] == pytest.approx(0.1)
    assert answer["p"] is None
    assert "no interval" in answer["verdict"]


def test_a_failed_trial_leaves_its_pair_out_and_is_shown(tmp_path: Path) -> None:
    scores = {**SCORES, "without good": [None, *SCORES["without good"][1:]]}
    made = rows(scores)
    del made[-5]["balanced_accuracy"]  # so does a trial of which the metric is not known
    answers = answers_of(write_tables(tmp_path, made, QUESTIONS, FACTS, 15, "balanced_accuracy"))
    for name, question in (("good", "without good"), ("idle", "without idle")):
        assert answers[name]["seeds"] == 4
        expected = np.mean(np.array(SCORES[question][1:], float) - np.array(SCORES["all"][1:], float))
        assert answers[name]["difference"] == pytest.approx(expected)
    summary = json.loads((tmp_path / "ablation.json").read_text())
    assert summary["failed"] == 1
    assert {row["variant"]: row["seeds"] for row in summary["variants"]} == dict(zip(SCORES, (5, 4, 4), strict=True))
    assert "1 of them failed, 1 of them without balanced accuracy" in (tmp_path / "ablation.md").read_text()
    page = (tmp_path / "ablation.html").read_text()
    assert "it &lt;burst&gt;" in page
    assert "<burst>" not in page


def test_tables_can_be_written_before_the_first_trial_is_done(tmp_path: Path) -> None:
    table = write_tables(tmp_path, [], QUESTIONS, FACTS, 15)
    assert len(table) == 0
    assert "0 of 15 trials" in (tmp_path / "ablation.md").read_text()
    assert (tmp_path / "ablation.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_cut_off_from_a_figure_with_long_labels(tmp_path: Path) -> None:
    label = "labels=majority, label_smoothing.smoothing=0 instead of labels=separate, label_smoothing.smoothing=0.2"
    questions = [Comparison(label, question.weights) for question in QUESTIONS]
    write_tables(tmp_path, rows(SCORES), questions, FACTS, 15, "balanced_accuracy")
    with Image.open(tmp_path / "ablation.png") as image:
        pixels = np.asarray(image.convert("L"))
    for edge in (pixels[:, :4], pixels[:, -4:], pixels[:4], pixels[-4:]):
        assert (edge == 255).all()


def test_files_agree_and_need_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "trials/all/seed-0/run").mkdir(parents=True)
    (tmp_path / "trials/all/seed-0/run/report.html").write_text("x")
    write_tables(tmp_path, rows(SCORES), QUESTIONS, FACTS, 15)
    with open(tmp_path / "ablation.csv", newline="") as file:
        listed = list(csv.DictReader(file))
    assert len(listed) == 15
    assert {row["variant"] for row in listed} == set(SCORES)
    assert all(float(row["balanced_accuracy"]) == pytest.approx(1 - float(row["accuracy"])) for row in listed)
    markdown = (tmp_path / "ablation.md").read_text().splitlines()
    assert next(line for line in markdown if line.startswith("| all")).startswith("| all | 80.00 | 20.00 |")
    good = next(line for line in markdown if line.startswith("| good"))
    assert "+5.00" in good
    assert "-20 %" in good  # images per second
    page = (tmp_path / "ablation.html").read_text()
    assert 'href="trials/all/seed-0/run/report.html"' in page
    assert not re.search(r'(src|href)="(?!data:|trials/)', page)
    assert not list(tmp_path.glob(".*"))  # no temporary file is left
