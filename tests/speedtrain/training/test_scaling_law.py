"""The law behind the planner: that it says what a law of learning must, and what was recorded."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from speedtrain.config import Config, resolve
from speedtrain.data import Images, load_data
from speedtrain.training.scaling_law import FITTED_SETTINGS, RESNET9, ScalingLaw, law_for, predict_accuracy

USUAL = {"accuracy": 0.8, "batch_size": 128, "side": 32, "width": 16, "epochs": 20.0}
FIVE_THOUSAND = Images(
    "five thousand", np.zeros((5000, 1, 1, 3), np.uint8), np.arange(5000) % 10, tuple("abcdefghij"), native=True
)
RESULTS = Path(__file__).parents[3] / "results"
RECORD = RESULTS / "planner" / "runs.json"


def predicted(config: Config, plan: dict, train: Images, num_test_images: int) -> dict[str, float] | None:
    return predict_accuracy(config, plan, len(train.images), len(train.classes), num_test_images, native=train.native)


def test_the_formula() -> None:
    law = ScalingLaw(0.1, 0.5, 0.4, 1.0, 0.6, 0.5, 0.5, 0.01)
    # 2,000 images of a class are four times 500: 0.1/2 + 0.4/16 + 0.6/√(36·2)
    assert law.accuracy(16, 36, 20_000) == pytest.approx(1 - 0.05 - 0.025 - 0.6 / 72**0.5)


def test_more_of_anything_promises_more() -> None:
    told = {"width": 16.0, "epochs": 30.0, "images": 5000}
    usual = RESNET9.accuracy(**told)
    for key in told:
        assert RESNET9.accuracy(**{**told, key: 2 * told[key]}) > usual, key
    assert RESNET9.accuracy(**told, classes=100) < usual  # 50 images per class instead of 500


def test_never_less_than_chance_nor_all() -> None:
    assert RESNET9.accuracy(16, 0, 5000) == 0.1
    assert RESNET9.accuracy(8, 0.01, 100) == 0.1
    assert RESNET9.accuracy(8, 0.01, 100, classes=4) == 0.25
    assert RESNET9.accuracy(64, 1e6, 10**7) < 1


def test_it_ranks_where_all_promise_chance() -> None:
    told = {"epochs": 1e4, "images": 50, "classes": 2}
    assert RESNET9.accuracy(8, **told) == RESNET9.accuracy(64, **told) == 0.5
    assert RESNET9.error(64, **told) < RESNET9.error(8, **told)


def test_it_says_what_was_recorded() -> None:
    rows = json.loads(RECORD.read_text())["rows"]
    apart = [
        RESNET9.accuracy(row["width"], row["epochs"], row["images"], row["classes"]) - row["accuracy"] for row in rows
    ]
    assert len(rows) >= 15
    spread = (sum(each**2 for each in apart) / len(apart)) ** 0.5
    assert spread < 1.2 * RESNET9.deviation


def test_the_default_recipe_is_the_one_that_the_law_was_fitted_to() -> None:
    """Whoever changes `configs/auto.yaml` fits the law anew: it predicts nothing for another recipe."""
    config = resolve(recipe="auto", budget=60)
    assert {key: getattr(config, key) for key in FITTED_SETTINGS} == FITTED_SETTINGS


def test_the_interval_is_of_the_law_and_of_the_test_images() -> None:
    config, plan = resolve(recipe="auto", budget=60), USUAL
    for num_images, spread in ((10**12, 0.0), (100, 0.04)):  # √(0.8·0.2/100)
        half_width = 1.96 * (RESNET9.deviation**2 + spread**2) ** 0.5
        prediction = {"accuracy": 0.8, "low": 0.8 - half_width, "high": 0.8 + half_width}
        assert predicted(config, plan, FIVE_THOUSAND, num_images) == pytest.approx(prediction, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "planned", "num_images"),
    [
        ({"lr": 0.1}, {}, 5000),
        ({"muon.lr": 0.05}, {}, 5000),
        ({"model": "timm:resnet18"}, {"width": None, "accuracy": None}, 5000),
        ({}, {"batch_size": 512}, 5000),
        ({}, {"width": 128}, 5000),
        ({}, {"side": 64}, 5000),
        ({}, {"epochs": 1.0}, 5000),
        ({}, {}, 200),
    ],
    ids=["lr", "muon", "timm", "batches", "width", "side", "epochs", "images"],
)
def test_nothing_is_expected_where_the_law_knows_nothing(settings: dict, planned: dict, num_images: int) -> None:
    config = resolve(recipe="auto", budget=60, settings=settings)
    few = replace(FIVE_THOUSAND, images=FIVE_THOUSAND.images[:num_images])
    assert predicted(config, {**USUAL, **planned}, few, 2500) is None


def test_nothing_is_expected_of_images_that_were_of_another_kind() -> None:
    config, resized = resolve(recipe="auto", budget=60), replace(FIVE_THOUSAND, native=False)
    assert predicted(config, USUAL, resized, 2500) is None
    assert not load_data("digits").train.native


def test_nothing_is_expected_of_other_numbers_of_classes() -> None:
    config, two = resolve(recipe="auto", budget=60), replace(FIVE_THOUSAND, classes=("cat", "dog"))
    assert predicted(config, USUAL, FIVE_THOUSAND, 2500) is not None
    assert predicted(config, USUAL, two, 2500) is None


def test_the_width_for_photographs_is_close_to_the_best_measured() -> None:
    """At about equal computing time; the log loss tells widths apart that the accuracy does not."""
    runs = json.loads((RESULTS / "photograph-widths.json").read_text())["runs"]
    loss: dict[tuple[int, int], list[float]] = {}
    for run in runs:
        if run["side"] == 64 and not run["progressive_resizing"]:
            loss.setdefault((run["width"], run["epochs"]), []).append(run["log_loss"])
    assert len(loss) == 3
    images = 3068 * 4 // 5
    for side, holds in ((64, True), (32, False)):
        chosen = min(loss, key=lambda network: law_for(side).error(*network, images))
        best = min(map(mean, loss.values()))
        assert (mean(loss[chosen]) < best + 0.01) is holds
