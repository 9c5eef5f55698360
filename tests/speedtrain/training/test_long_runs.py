"""What a recipe adds in long runs, and for which runs."""

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from speedtrain.config import Config, resolve
from speedtrain.errors import UserError
from speedtrain.member_configs import PLANNED, member_configs
from speedtrain.training.epoch_limit import epoch_limit, limited_epochs
from speedtrain.training.long_runs import added_in_long_runs, as_long_run, gain_of_long_runs, is_long
from speedtrain.training.plan import Plan
from speedtrain.training.planner import _Probe, make_plan

LONG = {"width_times_epochs": 320, "gain": 0.5, "tricks": {"trivial_augment": {"strength": 0.5}}}
ADDED = {"trivial_augment": {"strength": 0.5}}


def configured(**options: Any) -> Config:
    settings = {"in_long_runs": LONG, "precision": "fp32", **options.pop("settings", {})}
    return resolve(**{"budget": 600, "device": "cpu", "settings": settings, **options})


@pytest.mark.parametrize("epochs", [19.0, 21.0])
def test_the_planner_adds_them_where_there_are_so_many_epochs(epochs: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speedtrain.training.planner.WIDTHS", (16,))
    config = configured(settings={"max_epochs": epochs, "batch_size": 8})
    images = torch.randint(0, 256, (40, 8, 8, 3), dtype=torch.uint8)
    monkeypatch.setitem(sys.modules, "jsonargparse", None)  # the machine of a judge need not have it
    plan = make_plan(config, images, torch.arange(40) % 10, 10, 600.0)
    assert plan.epochs == epochs
    assert plan.added == (ADDED if epochs > 20 else {})
    words = f"with trivial_augment: {epochs:g} epochs of width 16 (in_long_runs)"
    assert (words in plan.reasons) == (epochs > 20)


def test_they_count_in_the_choice_of_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """A width of 24 would be the best without them. It has too few epochs for them: 24 times 18. 16 has enough: 31."""
    rates = {12: 300.0, 16: 260.0, 24: 150.0, 32: 100.0}
    monkeypatch.setattr("speedtrain.training.planner._Probe._rate", lambda probe, width, *rest: rates[width])
    images, labels = torch.zeros(5000, 32, 32, 3, dtype=torch.uint8), torch.arange(5000) % 10
    chosen = {}
    for long in (None, {"width_times_epochs": 460, "gain": 0.05, "tricks": LONG["tricks"]}):
        plan = make_plan(configured(settings={"in_long_runs": long}), images, labels, 10, 600.0)
        chosen[plan.width] = plan
    assert list(chosen) == [24, 16]
    assert chosen[24].added == {}
    assert chosen[16].added == ADDED
    accuracies = {row["width"]: row["accuracy"] for row in chosen[16].alternatives}
    without = {row["width"]: row["accuracy"] for row in chosen[24].alternatives}
    assert accuracies[16] == pytest.approx(without[16] + 0.05, abs=2e-4)
    assert accuracies[24] == without[24]


def test_the_prediction_keeps_to_the_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds pass between the two, and by then there are fewer epochs than the recipe asks for."""
    decide, left = _Probe.decide_long, [201.0]

    def decide_and_wait(probe: _Probe, plan: Plan) -> None:
        decide(probe, plan)
        left[0] = 199.0

    monkeypatch.setattr(_Probe, "decide_long", decide_and_wait)
    monkeypatch.setattr(_Probe, "_rate", lambda *rest: 5000.0)
    monkeypatch.setattr(_Probe, "_left", lambda probe: left[0])
    monkeypatch.setattr("speedtrain.training.planner.WIDTHS", (16,))
    images, labels = torch.zeros(5000, 32, 32, 3, dtype=torch.uint8), torch.arange(5000) % 10
    accuracy = {}
    for gain in (0.05, 0.1):
        left[0] = 201.0
        long = {"width_times_epochs": 3200, "gain": gain, "tricks": LONG["tricks"]}
        plan = make_plan(configured(settings={"in_long_runs": long}), images, labels, 10, 600.0)
        assert plan.added == ADDED
        assert plan.epochs == plan.alternatives[0]["epochs"] == 199  # without them, training would end after 150
        accuracy[gain] = plan.accuracy
    assert accuracy[0.1] == pytest.approx(accuracy[0.05] + 0.05)


def test_training_goes_on_for_longer_where_they_are_added() -> None:
    config = resolve(budget=600)
    assert epoch_limit(config, 5000) == 150
    assert epoch_limit(as_long_run(config), 5000) == 400
    assert epoch_limit(resolve(budget=600, with_tricks=["trivial_augment"], settings={"width": 24}), 5000) == 400
    assert epoch_limit(as_long_run(config), 500) == 500


@pytest.mark.parametrize(
    ("width", "time_for", "trained"),
    [(64, 90, 90), (64, 94, 94), (64, 1000, 400), (16, 374, 150), (16, 375, 375), (8, 1000, 150), (None, 1000, 150)],
)
def test_the_planner_counts_as_many_epochs_as_will_be_trained(width: int | None, time_for: int, trained: int) -> None:
    config = resolve(budget=600)
    assert limited_epochs(config, width, time_for, 5000) == trained
    if width is not None:
        added = is_long(config, width, trained)
        decided = replace(as_long_run(config) if added else config, width=width)
        assert min(time_for, epoch_limit(decided, 5000)) == trained
    assert limited_epochs(resolve(budget=600, settings={"max_epochs": 50}), width, time_for, 5000) == 50


@pytest.mark.parametrize(
    "options",
    [
        {"settings": {"width": 24}},
        {"settings": {"in_long_runs": None}},
        {"recipe": "paper", "settings": {"in_long_runs": None}},
        {"model": "timm:resnet18"},
        {"with_tricks": ["trivial_augment"]},
        {"without": ["trivial_augment"]},
        {"without": ["flip"]},
    ],
)
def test_nothing_is_added_where_nothing_is_to_be_decided(options: dict[str, Any]) -> None:
    assert added_in_long_runs(configured()) == ADDED
    config = configured(**options)
    assert added_in_long_runs(config) == {}
    assert gain_of_long_runs(config, 24, 1000) == 0
    assert as_long_run(config) == config


def test_their_gain_counts_from_so_many_epochs_of_a_width_on() -> None:
    networks = ((16, 19.9), (16, 20), (8, 20), (8, 40), (64, 400))
    assert [gain_of_long_runs(configured(), *network) for network in networks] == [0, 0.5, 0, 0.5, 0.5]


def test_they_stand_where_they_wrap_by_default() -> None:
    names = list(as_long_run(configured()).tricks)
    assert names.index("flip") < names.index("trivial_augment") < names.index("label_smoothing")


def test_a_member_has_those_that_its_own_planner_added() -> None:
    planned = {"width": 24, "with": ["trivial_augment"], "trivial_augment.strength": 0.5}
    config = configured(settings={"members": [{"with": "cutmix", PLANNED: planned}, {PLANNED: {"width": 48}}]})
    first, second = member_configs(config)
    assert first.tricks["trivial_augment"] == {"strength": 0.5}
    assert "cutmix" in first.tricks
    assert "trivial_augment" not in second.tricks
    assert (first.width, second.width) == (24, 48)


def test_a_member_has_them_with_the_values_that_the_recipe_has_now() -> None:
    members = [{PLANNED: {"with": ["trivial_augment"]}}, {"trivial_augment.strength": 0.75, PLANNED: {"with": []}}]
    recipe = configured(settings={"members": members})
    assert [member.tricks.get("trivial_augment") for member in member_configs(recipe)] == [{"strength": 0.5}, None]
    always = {"with_tricks": ["trivial_augment"], "settings": {"members": members, "trivial_augment.strength": 0.25}}
    strengths = [member.tricks["trivial_augment"]["strength"] for member in member_configs(configured(**always))]
    assert strengths == [0.25, 0.75]
    for broken in (3, {"with": 5}):
        with pytest.raises(UserError, match="members: number 1"):
            member_configs(configured(settings={"members": [{PLANNED: broken}, {}]}))


@pytest.mark.parametrize("planned", [{}, {PLANNED: {"width": 64, "with": ["trivial_augment"]}}])
def test_a_member_may_change_them_or_take_them_out(planned: dict[str, Any]) -> None:
    own = [{"trivial_augment.strength": 0.25, **planned}, {"without": "trivial_augment"}, {"without": "flip"}]
    first, *others = member_configs(configured(settings={"members": own}))
    changed = {"trivial_augment": {"strength": 0.25}}
    assert added_in_long_runs(first) == ({} if planned else changed)
    assert first.tricks.get("trivial_augment") == (changed["trivial_augment"] if planned else None)
    for other in others:
        assert added_in_long_runs(other) == {}


def test_a_finished_run_as_a_recipe_obeys_what_is_taken_out() -> None:
    planned = {PLANNED: {"width": 64, "with": ["trivial_augment"], "trivial_augment.strength": 0.5}}
    config = configured(settings={"members": [planned, planned]})
    saved = dict(vars(config))
    assert all("trivial_augment" in each.tricks for each in member_configs(resolve(recipe=saved)))
    for options in ({"without": ["trivial_augment"]}, {"settings": {"in_long_runs": None}}):
        members = member_configs(resolve(recipe=saved, **options))
        assert [each.width for each in members] == [64, 64]
        assert not any("trivial_augment" in each.tricks for each in members)


def test_from_python_it_is_an_option_like_others() -> None:
    assert added_in_long_runs(resolve(budget=600, in_long_runs=LONG)) == ADDED
    with pytest.raises(UserError, match="needs width_times_epochs"):
        resolve(budget=600, recipe="paper", in_long_runs={"gain": 0.1})


def test_exactly_these_tricks_are_exactly_these() -> None:
    assert resolve(budget=600, tricks=["flip"]).in_long_runs is None
    assert added_in_long_runs(configured(tricks=["flip"])) == ADDED, "both are asked for"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"gain": 0.01}, "needs width_times_epochs, a gain and tricks"),
        ({**LONG, "more": 1}, "needs width_times_epochs, a gain and tricks"),
        ({**LONG, "tricks": ["flip"]}, "needs width_times_epochs, a gain and tricks"),
        ({**LONG, "width_times_epochs": 0}, "width_times_epochs is a number above 0; got 0"),
        ({**LONG, "gain": 1}, "gain is a number above 0 and below 1; got 1"),
        ({**LONG, "gain": True}, "gain is a number above 0 and below 1"),
        ({**LONG, "tricks": {"nonsense": {}}}, "'nonsense' cannot be added; there is random_crop"),
        ({**LONG, "tricks": {"low_rank": {}}}, "'low_rank' cannot be added"),
        (3, "in_long_runs"),
        ({**LONG, "tricks": {"trivial_augment": {"strength": 2}}}, "strength must lie above 0"),
    ],
)
def test_bad_ones_are_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        configured(settings={"in_long_runs": given})


def test_a_hyperparameter_of_a_trick_of_long_runs_says_how_it_is_set() -> None:
    with pytest.raises(UserError, match=r"is on in long runs alone, as in_long_runs .*\(add it by --with trivial_augm"):
        configured(settings={"trivial_augment.strength": 0.5})
    config = configured(with_tricks=["trivial_augment"], settings={"trivial_augment.strength": 0.5})
    assert config.tricks["trivial_augment"] == {"strength": 0.5}
    assert added_in_long_runs(config) == {}
