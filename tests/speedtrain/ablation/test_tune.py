"""Tuning with real runs: the search must not depend on the test images, and a kill must cost little."""

import json
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from labelled_images import some_images, some_labels
from sklearn.datasets import load_digits

from speedtrain import UserError, tune
from speedtrain.ablation.local_engine import LocalEngine
from speedtrain.ablation.optuna_search import Search
from speedtrain.ablation.search_space import Dimension
from speedtrain.ablation.trial import Row, Trial, failed_row
from speedtrain.ablation.tune import _prepare_trials, _Recipe
from speedtrain.cli import main
from speedtrain.config import resolve
from speedtrain.data import load_data

from .conftest import kill, start, wait_until

SETTINGS = {"width": 8, "precision": "fp32", "batch_size": 64, "max_epochs": 8}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1..0.5", Dimension("k", 0.1, 0.5)),
        ("log:1e-3..0.5", Dimension("k", 0.001, 0.5, log=True)),
        ("8..64", Dimension("k", 8, 64)),
        ("1,2,4", Dimension("k", choices=(1, 2, 4))),
        (["bf16", "fp32"], Dimension("k", choices=("bf16", "fp32"))),
    ],
)
def test_ranges_and_choices(text: object, expected: Dimension) -> None:
    assert Dimension.parse("k", text) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--search"),
        (["--search", "lr"], "KEY=WHERE"),
        (["--search", "lr=5"], "LOW..HIGH"),
        (["--search", "lr=0.1..0.2", "--search", "lr=0.3..0.4"], "--search lr: given twice"),
        (["--search", "lr=0.5..0.1"], "LOW must be below HIGH"),
        (["--search", "lr=log:0..1"], "above 0"),
        (["--search", "lr=a..b"], "LOW..HIGH"),
        (["--search", "rl=0.1..0.2"], "no such key"),
        (["--search", "sam.rho=0.1..0.2"], "--with sam"),
        (["--search", "flip.probability=0.5..2"], "probability"),
        (["--search", "lr=0.1..0.2", "--trials", "0"], "--trials"),
        (["--search", "lr=0.1..0.2", "--metric", "f1"], "--metric f1: must be accuracy or balanced_accuracy"),
        (["--search", "lr=0.1..0.2", "--engine", "slurm"], "no such engine"),
        (["--search", "lr=0.1..0.2", "--address", "auto"], "--engine ray"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "--budget", "9", "--data", "digits", "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "study.log").exists()


def test_optuna_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"speedtrain\[tune\]"):
        tune(9, "digits", search={"lr": "0.1..0.2"}, out=tmp_path / "tuning")


def test_a_class_of_a_single_image_is_searched_with(tmp_path: Path) -> None:
    images, labels = some_images(21), np.r_[some_labels(20, 2), 2]
    loaded = load_data((images, labels), (images[:2], labels[:2]))
    recipe = _Recipe(9, {"width": 8, "batch_size": 32, "precision": "fp32"}, {})
    _prepare_trials(recipe, loaded, tmp_path, LocalEngine(recipe.configure({})))
    with np.load(tmp_path / "data/train.npz") as train, np.load(tmp_path / "data/test.npz") as test:
        assert set(train["labels"]) == {0, 1, 2}
        assert set(test["labels"]) == {0, 1}
        assert len(train["labels"]) + len(test["labels"]) == 21
    alone = load_data((images[:2], np.arange(2)), (images[:2], np.arange(2)))
    with pytest.raises(UserError, match="each class has a single image, none to hold out: add more, or use ablate"):
        _prepare_trials(recipe, alone, tmp_path / "other", LocalEngine(recipe.configure({})))


class OppositeScores:
    """Trains nothing: the higher learning rate has the higher accuracy, and the lower balanced accuracy."""

    at_once = 1

    def run(self, trials: Sequence[Trial]) -> Generator[Row, None, None]:
        for trial in trials:
            trial.folder.mkdir(parents=True)
            scores = {"accuracy": trial.config.lr, "balanced_accuracy": 1 - trial.config.lr}
            yield trial.save_result({**failed_row(trial, None), "status": "finished", **scores})


@pytest.mark.parametrize(("metric", "best"), [("accuracy", max), ("balanced_accuracy", min)])
def test_a_search_finds_what_is_best_by_its_metric(metric: str, best: Callable, tmp_path: Path) -> None:
    def make_trial(settings: Mapping[str, Any], seed: int) -> Trial:
        return Trial("a", tmp_path / f"lr-{settings['lr']}", resolve(budget=9, settings=settings))

    engine: Any = OppositeScores()
    search = Search(tmp_path / "study.log", [Dimension("lr", 0.1, 0.2)], [0], 0, engine, make_trial, metric)
    said = list(search.measure(3))
    tried = [proposal.params["lr"] for proposal in search.finished()]
    assert len(set(tried)) == 3
    assert search.best().params["lr"] == best(tried)
    scores = [rate if metric == "accuracy" else 1 - rate for rate in tried]
    assert search.best().value == pytest.approx(max(scores))
    assert said == [f"a, seed 0: {metric.replace('_', ' ')} {score:.2%}" for score in scores]


@pytest.mark.usefixtures("warm_processes")
def test_a_killed_search_goes_on_and_never_looks_at_the_test_images(
    warm_python: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = load_digits()
    images = (digits.images * 15).astype(np.uint8)
    np.savez(tmp_path / "train.npz", images=images[:1200], labels=digits.target[:1200])
    wrong = (digits.target[1200:] + 1) % 10  # a search that looked at these would go for the worst
    np.savez(tmp_path / "test.npz", images=images[1200:], labels=wrong)
    out = tmp_path / "tuning"
    command = ["tune", "--budget", "60", "--trials", "2", "--confirm", "1", "--search", "lr=0.00001,0.2"]
    command += ["--data", str(tmp_path / "train.npz"), "--test", str(tmp_path / "test.npz"), "--out", str(out)]
    command += ["--without", "muon", "--workers", "2", "--metric", "balanced_accuracy"]
    command += [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]

    search = start(command, warm_python)
    wait_until(lambda: list(out.glob("trials/*/*/recipe.yaml")), search)
    kill(search)
    with (out / "study.log").open("ab") as journal:
        journal.write(b'{"op_code": 5, "worker')  # as a kill in the middle of a line leaves it
    (out / "study.log.lock").symlink_to("study.log")  # and in the middle of a write

    assert main([*command, "--resume"]) == 0
    table = pd.read_csv(out / "tune.csv")
    assert len(table) == 2
    assert (table["state"] == "complete").all()
    assert table["balanced_accuracy"].max() > 0.5
    measured = [json.loads(path.read_text())["balanced_accuracy"] for path in out.glob("trials/*/*/run/result.json")]
    assert set(table["balanced_accuracy"].round(9)) == set(np.round(measured, 9))
    winner = yaml.safe_load((out / "winner.yaml").read_text())
    assert winner["lr"] == table.loc[table["balanced_accuracy"].idxmax(), "lr"]
    assert "budget" not in winner
    confirmed = json.loads((out / "confirm" / "ablation.json").read_text())
    assert {row["seed"] for row in confirmed["trials"]} == {1000}
    assert all(row["accuracy"] < 0.5 for row in confirmed["trials"])  # that, and only that, is on the test images
    scores = {row["variant"]: row["balanced_accuracy"] for row in confirmed["trials"]}
    assert confirmed["metric"] == "balanced_accuracy"
    assert confirmed["comparisons"][0]["difference"] == pytest.approx(scores["tuned"] - scores["recipe"])
    said = capsys.readouterr().out
    assert "fresh seeds" in said
    assert "points of balanced accuracy" in said
    assert (out / "tune.png").read_bytes().startswith(b"\x89PNG")

    for where, metric, different in (
        ("0.1,0.3", "balanced_accuracy", "search"),
        ("0.00001,0.2", "accuracy", "metric"),
    ):
        with pytest.raises(UserError, match=f"{different} is not what it was"):
            tune(
                60, tmp_path / "train.npz", tmp_path / "test.npz", search={"lr": where}, metric=metric, workers=2,
                out=out, resume=True, without=["muon"], settings=SETTINGS,
            )  # fmt: skip
