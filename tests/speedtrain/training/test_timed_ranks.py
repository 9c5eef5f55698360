"""Ranks of `low_rank`: timed by the planner, then part of the configuration."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from speedtrain.config import Config, resolve
from speedtrain.data import Images
from speedtrain.member_configs import member_configs
from speedtrain.run.launcher import WorkerProcess
from speedtrain.run.progress import Display
from speedtrain.training.plan import Plan
from speedtrain.training.planner import make_plan
from tricks import low_rank

RANKS = [16, 0, 16, 32, 64, 80, 80]


def configured(**settings: object) -> Config:
    pinned = {"width": 16, "batch_size": 8, "precision": "fp32", **settings}
    return resolve(recipe="auto", budget=60, device="cpu", with_tricks=["low_rank"], settings=pinned)


def planned(config: Config, seconds: float = 1e6) -> Plan:
    images = torch.randint(0, 256, (64, 32, 32, 3), dtype=torch.uint8)
    return make_plan(config, images, torch.arange(64) % 10, 10, seconds)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the inputs that are timed. The convolution of 16 channels is not faster at a lower rank."""
    shapes: list[tuple[int, ...]] = []

    def share_of_time(factors: Any, layer: Any, inputs: torch.Tensor, precision: torch.dtype) -> float:
        shapes.append(tuple(inputs.shape))
        return 1.0 if layer.in_channels == layer.out_channels == 32 else 0.5

    monkeypatch.setattr(low_rank, "share_of_time", share_of_time)
    return shapes


def test_ranks_are_timed_once_and_then_given(timed: list[tuple[int, ...]]) -> None:
    config = configured()
    plan = planned(config)
    assert plan.ranks == [16, 0, 0, 32, 64, 80, 80]
    assert set(timed) == {(8, 16, 32, 32), (8, 32, 16, 16), (8, 64, 8, 8), (8, 128, 4, 4)}
    assert any("ranks [16, 0, 0" in reason for reason in plan.reasons)
    assert plan.alternatives == []
    timed.clear()
    for given in {"low_rank.ranks": plan.ranks}, {"low_rank.ranks": [0] * 7}, {"low_rank.timed": False}:
        assert planned(configured(**given)).ranks is None
    assert not timed


def test_without_time_all_convolutions_stay(timed: list[tuple[int, ...]]) -> None:
    plan = planned(configured(), seconds=0.0)
    assert plan.ranks == [0] * 7
    assert not timed
    assert any("ranks [0, 0" in reason for reason in plan.reasons)


def images() -> Images:
    return Images("some", np.zeros((20, 32, 32, 3), np.uint8), np.arange(20) % 2, ("a", "b"))


def plan_event(**more: object) -> dict[str, Any]:
    plan = Plan(model="resnet9", side=32, width=16, batch_size=8, precision="fp32", resolutions=[32], ranks=RANKS)
    return {"event": "plan", "plan": plan.as_dict(), **more}


def test_ranks_of_the_plan_are_stored_in_the_runs_configuration(tmp_path: Path) -> None:
    config = configured(width="auto")
    tricks = config.tricks
    WorkerProcess(config, images(), tmp_path, Display(quiet=True))._on_event(plan_event())
    assert tricks["low_rank"]["ranks"] == ()  # other runs of the same configuration time for themselves
    stored = resolve(recipe=tmp_path / "config.yaml")
    assert stored.width == 16
    assert stored.tricks == {**tricks, "low_rank": {**tricks["low_rank"], "ranks": tuple(RANKS)}}


def test_each_member_keeps_its_ranks(tmp_path: Path) -> None:
    settings = {"members": [{}, {"with": "low_rank"}]}
    config = resolve(budget=60, threads=2, device="cpu", settings=settings)
    worker = WorkerProcess(config, images(), tmp_path, Display(quiet=True), members=member_configs(config))
    worker._on_event(plan_event(member=2))
    first, second = member_configs(resolve(recipe=tmp_path / "config.yaml"))
    assert "low_rank" not in first.tricks
    assert second.tricks["low_rank"]["ranks"] == tuple(RANKS)
    assert second.width == 16
