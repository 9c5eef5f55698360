"""One network or several: the law's arithmetic, and for which runs it is asked."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from speedtrain.config import Config, resolve
from speedtrain.data import Images
from speedtrain.errors import UserError
from speedtrain.machine import free_memory
from speedtrain.member_configs import member_configs
from speedtrain.run.launcher import WorkerProcess
from speedtrain.run.progress import Display
from speedtrain.training.one_or_several import (
    LARGEST_SIDE,
    are_ruled_out,
    considered_members,
    considered_numbers,
    weigh,
)
from speedtrain.training.plan import Plan
from speedtrain.training.planner import _Probe
from speedtrain.training.scaling_law import predict_accuracy


def open_config(**options: Any) -> Config:
    return resolve(**{"budget": 600, "device": "cpu", "threads": 2, **options})


def plan_of_one(seconds: float, rates: dict[int, float], side: int = 32) -> Plan:
    """What the planner says of 5,000 images, where these widths train so many of them a second."""
    rows = [
        {"width": width, "images_per_second": rate, "epochs": rate * seconds / 5000} for width, rate in rates.items()
    ]
    best = max(rows, key=lambda row: row["epochs"])
    plan = Plan("resnet9", side, int(best["width"]), 128, "fp32", [side])
    plan.images_per_second, plan.epochs, plan.alternatives = best["images_per_second"], best["epochs"], rows
    plan.seconds_left = seconds
    return plan


def error(width: float, epochs: float, side: int = 32, most: float = 400) -> float:
    """Of the law, at 500 images a class, with what a long run adds, and its limit of epochs: written down once more."""
    epochs = min(epochs, most)
    error = 0.1548 + (1.106 if side < 64 else 0.4 * 1.106) * width**-1.31 + 0.7398 * epochs**-1.217
    return error - (0.013 if width * epochs >= 6000 else 0)


RATES = {16: 1740.0, 24: 1250.0, 32: 1000.0, 48: 670.0, 64: 440.0}
"""Images per second of a Xeon with AMX on two cores."""


@pytest.mark.parametrize("seconds", [100.0, 200.0, 300.0, 600.0, 1800.0])
@pytest.mark.parametrize(("spent", "side"), [(0.0, 32), (9.0, 32), (9.0, 64)])
def test_the_choice_is_what_the_law_says(seconds: float, spent: float, side: int) -> None:
    config = open_config()
    assert config.or_members is not None
    networks = considered_members(config)
    assert len(networks) == 2
    left = seconds - spent
    plan = plan_of_one(left, RATES, side)
    one = min(error(width, rate * left / 5000, side) for width, rate in RATES.items())
    each = min(error(width, rate / 2 * (left - 2 * spent) / 5000, side) for width, rate in RATES.items())
    points = 100 * (one - each + config.or_members["gain"])
    chosen, reason = weigh(config, plan, networks, 5000, 10, spent=spent, memory=1)
    assert len(chosen) == (2 if points > 0 else 0)
    assert f"{abs(points):.1f} points {'better' if points > 0 else 'worse'}" in str(reason)
    # in 1800 s, one network trains for long enough to be augmented, and each of two does not
    assert side == 64 or (points > 0) == (seconds in (300, 600))


def points_of(number: int, speed: float, rates: Mapping[int, float], left: float, starting: float) -> float:
    """By which the average of so many is predicted to be better than one: written down once more."""
    one = min(error(width, rate * left / 5000) for width, rate in rates.items())
    each = min(error(width, rate * speed * (left - starting) / 5000) for width, rate in rates.items())
    return 100 * (one - each + {2: 0.01, 4: 0.012}[number])


@pytest.mark.parametrize(("faster", "number"), [(0.2, 0), (1, 2), (8, 4)])
def test_with_more_cores_as_many_networks_as_the_law_says(faster: float, number: int) -> None:
    config = open_config(threads=8)
    networks = considered_members(config)
    assert considered_numbers(config, networks, 32, 5000, 10) == [2, 4]
    assert considered_numbers(open_config(threads=3), networks, 32, 5000, 10) == [2]
    rates = {width: faster * rate for width, rate in RATES.items()}
    points = {n: points_of(n, 1 / n, rates, 590.0, 2 * 9.0) for n in (2, 4)}
    assert number == (max(points, key=lambda n: points[n]) if max(points.values()) > 0 else 0)
    chosen, reason = weigh(config, plan_of_one(590.0, rates), networks, 5000, 10, spent=9.0, memory=1)
    assert len(chosen) == number
    assert f"{abs(max(points.values())):.1f} points" in str(reason)


def test_what_one_network_could_not_use_makes_several_better() -> None:
    rates = {width: 3 * rate for width, rate in RATES.items()}
    points = {}
    for most in (None, 60.0):
        config = open_config(settings={"max_epochs": most})
        _, reason = weigh(config, plan_of_one(290, rates), considered_members(config), 5000, 10, spent=9.0, memory=1)
        words = str(reason).split()
        points[most] = float(words[words.index("points") - 1]) * (1 if "better" in words else -1)

    def least(speed: float, seconds: float, most: float) -> float:
        return min(error(width, speed * rate * seconds / 5000, most=most) for width, rate in rates.items())

    for most in points:
        limit = most or 1e9
        expected = 100 * (least(1.0, 290, limit) - least(0.5, 290 - 18, limit) + 0.01)
        assert points[most] == pytest.approx(expected, abs=0.051)
    assert points[60.0] > points[None]


H100 = {48: 24611.0, 64: 27703.0}


@pytest.mark.parametrize(
    ("at_once", "number"),
    [({2: 0.95, 4: 0.85}, 4), ({2: 0.9, 4: 0.2}, 2), ({2: 0.7, 4: 0.0}, 2), ({2: 0.05, 4: 0.02}, 0)],
)
def test_on_a_gpu_the_measured_speeds_count(at_once: dict[int, float], number: int) -> None:
    config = open_config(device="cuda", threads=16, budget=60)
    plan = plan_of_one(46.0, H100)
    plan.at_once = at_once
    points = {n: points_of(n, speed, H100, 46.0, 1.25 * 13.0) for n, speed in at_once.items() if speed}
    assert number == (max(points, key=lambda n: points[n]) if max(points.values()) > 0 else 0)
    chosen, reason = weigh(config, plan, considered_members(config), 5000, 10, spent=13.0, memory=1)
    assert len(chosen) == number
    assert number == 0 or f"(each at {at_once[number]:.0%} of the speed of one alone)" in str(reason)


def test_a_gpu_has_memory_and_cores_for_each_network_or_trains_one() -> None:
    config = open_config(device="cuda", threads=16, budget=60)
    networks, plan = considered_members(config), plan_of_one(46.0, H100)
    plan.at_once = {2: 0.0, 4: 0.0}
    reason = "one network: too little memory for 2 at once"
    assert weigh(config, plan, networks, 5000, 10, spent=13.0, memory=1) == ((), reason)
    assert considered_numbers(config, networks, 32, 5000, 10) == [2, 4]
    assert considered_numbers(replace(config, threads=15), networks, 32, 5000, 10) == [2]
    for unknown in ((LARGEST_SIDE + 1, 5000, 10), (32, 500, 10), (32, 50_000, 10)):
        assert considered_numbers(config, networks, *unknown) == [], "nothing is measured for them"
    assert considered_members(replace(config, threads=7)) == ()
    assert considered_members(replace(config, budget=59)) == ()


@pytest.mark.parametrize(("host", "gpu", "two", "three"), [(1.0, 0.4, 1.0, 1 / 1.2), (1.0, 2.0, 1 / 2, 1 / 3)])
def test_speeds_at_once_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, host: float, gpu: float, two: float, three: float
) -> None:
    """A step takes its CPU so long, and its GPU so long for every 512 images."""
    config = open_config(device="cuda", threads=16, budget=60)
    plan = Plan("resnet9", 32, 64, 512, "bf16", [32])
    steps = []

    def rate(probe: _Probe, width: int, precision: str, batch: int) -> float:
        steps.append(batch)
        return batch / max(host, gpu * batch / 512)

    monkeypatch.setattr(_Probe, "_rate", rate)
    for name, size in {"max_memory_reserved": 2**30, "memory_reserved": 2**30}.items():
        monkeypatch.setattr(torch.cuda, name, lambda size=size: size)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (4 * 2**30, 16 * 2**30))
    images = torch.zeros(50, 32, 32, 3, dtype=torch.uint8)
    probe = _Probe(replace(config, batch_size=512), images, torch.zeros(50, dtype=torch.int64), 10, 60.0)
    assert probe.speeds_at_once([2, 3], plan) == pytest.approx({2: two, 3: three}, abs=1e-3)
    assert steps == [512, 1024, 1536][: 2 if gpu > host else 3], "once it is the limit, more need no step"
    assert probe.speeds_at_once([4], plan) == {4: 0.0}, "five gigabytes of five, and copies of the images"


def test_the_parent_process_knows_the_networks_that_were_taken(tmp_path: Path) -> None:
    config = open_config(threads=8, seed=3)
    plan = plan_of_one(590.0, {width: 8 * rate for width, rate in RATES.items()})
    networks = considered_members(config)
    chosen, _ = weigh(config, plan, networks, 5000, 10, spent=9.0, memory=1)
    assert [one.seed for one in chosen] == [12, 13, 14, 15]
    assert [one.threads for one in chosen] == [2, 2, 2, 2]
    assert [one.tricks for one in chosen] == 2 * [one.tricks for one in networks]
    images = Images("zeros", np.zeros((20, 32, 32, 3), np.uint8), np.arange(20) % 2, ("a", "b"))
    worker = WorkerProcess(config, images, tmp_path, Display(quiet=True), or_members=networks)
    worker._on_event({"event": "members", "number": 4, "plan": plan.as_dict()})
    assert worker.members == chosen
    assert member_configs(worker.config) == chosen, "what a replay reads"


def test_where_nothing_is_known_there_is_one_network() -> None:
    config = open_config()
    networks = considered_members(config)
    plan, nothing = plan_of_one(600.0, RATES), ((), None)
    assert weigh(config, plan, networks, 5000, 10, spent=0.0, memory=1)[0]
    assert weigh(open_config(device="cuda", threads=7), plan, networks, 5000, 10, spent=0.0, memory=1) == nothing
    assert weigh(open_config(threads=1), plan, networks, 5000, 10, spent=0.0, memory=1) == nothing
    assert (
        weigh(config, plan_of_one(600.0, RATES, side=LARGEST_SIDE + 1), networks, 5000, 10, spent=0.0, memory=1)
        == nothing
    )
    assert weigh(config, plan_of_one(0.0, RATES), networks, 5000, 10, spent=0.0, memory=1) == nothing
    for images in (300, 50_000):  # of fewer and of more a class the law knows nothing
        assert weigh(config, plan, networks, images, 10, spent=0.0, memory=1) == nothing
    reason = "one network: too little time to start 2"
    assert weigh(config, plan, networks, 5000, 10, spent=300.0, memory=1) == ((), reason)
    reason = "one network: too little memory for 2 at once"
    assert weigh(config, plan, networks, 5000, 10, spent=0.0, memory=free_memory()) == ((), reason)


def test_members_are_considered_only_where_they_could_be_trained() -> None:
    assert considered_members(open_config(), side=32) != ()
    assert considered_members(open_config(), side=LARGEST_SIDE) != ()
    assert considered_members(open_config(), side=LARGEST_SIDE + 1) == ()
    assert considered_members(open_config(device="cuda:1", threads=7)) == ()
    assert considered_members(open_config(device="cuda:1", threads=8)) != ()
    assert considered_members(open_config(threads=1)) == ()
    assert considered_members(replace(open_config(), pretrained=True)) == ()
    for one in considered_members(open_config()):
        assert (one.threads, one.members, one.or_members) == (1, [], None)


@pytest.mark.parametrize(
    "options",
    [
        {"budget": 60},
        {"recipe": "paper"},
        {"recipe": "two"},
        {"with_tricks": ["sam"]},
        {"without": ["flip"]},
        {"tricks": ["flip"]},
        {"settings": {"width": 48}},
        {"settings": {"batch_size": 64}},
        {"settings": {"muon.lr": 0.05}},
        {"settings": {"snapshots": 3}},
        {"settings": {"members": [{}, {}]}},
        {"settings": {"members": []}},
        {"recipe": "two", "settings": {"members": []}},
        {"settings": {"or_members": None}},
        {"model": "timm:resnet18"},
    ],
)
def test_a_run_that_is_not_the_default_has_the_networks_that_it_names(options: dict[str, Any]) -> None:
    assert considered_members(open_config()) != ()
    config = open_config(**options)
    assert considered_members(config) == ()
    by_settings = config.or_members is not None and not config.members and config.budget >= 100
    assert are_ruled_out(config, 32) == by_settings
    assert not are_ruled_out(config, LARGEST_SIDE + 1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"gain": 0.01}, "needs a gain and two networks"),
        ({"gain": 0.01, "networks": [{}]}, "needs a gain and two networks"),
        ({"gain": 0.01, "networks": {}}, "needs a gain and two networks"),
        ({"gain": 0.01, "networks": [{}, {}], "more": 1}, "needs a gain and two networks"),
        ({"gain": 1.5, "networks": [{}, {}]}, "above 0 and below 1; got 1.5"),
        ({"gain": True, "networks": [{}, {}]}, "above 0 and below 1"),
        ({"gain": 0.01, "networks": [{}, "cutmix"]}, "a network must be a mapping, as in .* got 'cutmix'"),
        ({"gain": 0.01, "networks": [{}, {"with": "nonsense"}]}, "or_members: number 2: unknown trick 'nonsense'"),
        ({"gain": 0.01, "networks": [{}, {"seed": 3}]}, "number 2 has 'seed'"),
    ],
)
def test_bad_members_are_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        considered_members(open_config(settings={"or_members": given}))


def test_what_is_no_mapping_is_named() -> None:
    with pytest.raises(UserError, match="or_members must be a mapping or null, got 3"):
        open_config(settings={"or_members": 3})


def test_of_a_run_of_members_the_average_is_expected() -> None:
    config = open_config()
    each = {"side": 32, "batch_size": 128, "width": 48, "epochs": 42.0}
    plan = {**each, "width": None, "accuracy": 0.84, "members": [each, each]}
    expected = predict_accuracy(config, plan, 5000, 10, 2500, native=True)
    assert expected is not None
    assert expected["accuracy"] == 0.84
    unknown = {**each, "epochs": 3.0}, {**each, "added": {"trivial_augment": {}}}
    for other in unknown:  # the law knows nothing of so few, nor of what a long run adds
        plan["members"] = [each, other]
        assert predict_accuracy(config, plan, 5000, 10, 2500, native=True) is None
