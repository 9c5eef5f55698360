"""The planner on this very machine: it measures, and what it chooses follows from what it measured."""

import pytest
import torch

from speedtrain.config import Config, resolve
from speedtrain.training import planner
from speedtrain.training.lightning_module import Training
from speedtrain.training.plan import Plan
from speedtrain.training.planner import make_plan

CPU = torch.device("cpu")


def planned(seconds: float, plan_only: bool = False, **settings: object) -> tuple[Plan, Config]:
    config = resolve(recipe="auto", budget=seconds, settings=settings, device="cpu")
    images = torch.randint(0, 256, (5000, 32, 32, 3), dtype=torch.uint8)
    labels = torch.arange(5000) % 10
    return make_plan(config, images, labels, 10, seconds, plan_only=plan_only), config


def test_too_little_time_gets_a_narrow_one_and_plenty_the_widest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "WIDTHS", (8, 12, 16, 24))  # wider ones take long and change nothing in the rule
    short = planned(2.0, precision="fp32")[0]
    assert {row["width"] for row in short.alternatives} >= {16}
    rates = {row["width"]: row["images_per_second"] for row in short.alternatives}
    assert 1.25 * rates[short.width] >= max(rates.values())  # a chance difference counts for nothing
    plan = planned(1e6, precision="fp32")[0]
    assert plan.width == 24
    assert plan.epochs > 40


HALF_IS_TWICE_AS_FAST = {8: 1150.0, 12: 650.0, 16: 470.0, 24: 250.0}
WIDTH_COSTS_LITTLE = {8: 560.0, 12: 520.0, 16: 470.0, 24: 250.0}


@pytest.mark.parametrize(
    ("rates", "seconds", "measured"),
    [
        (HALF_IS_TWICE_AS_FAST, 12.0, [16, 8]),
        (HALF_IS_TWICE_AS_FAST, 60.0, [16, 12, 8]),
        (HALF_IS_TWICE_AS_FAST, 300.0, [16, 24, 12]),
        (WIDTH_COSTS_LITTLE, 45.0, [16, 8]),  # and 16 is chosen
    ],
)
def test_few_networks_are_measured(
    rates: dict[int, float], seconds: float, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine where the first steps of each network take a second."""
    now = [0.0]

    def rate(probe: object, width: int, *rest: object) -> float:
        now[0] += 1
        return rates[width]

    monkeypatch.setattr(planner.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(planner._Probe, "_rate", rate)
    plan, _ = planned(seconds, precision="fp32")
    assert [row["width"] for row in plan.alternatives] == measured
    accuracies = {row["width"]: row["accuracy"] for row in plan.alternatives}
    assert accuracies[plan.width] == max(accuracies.values())


def test_the_choice_promises_most_of_what_was_measured() -> None:
    plan, _ = planned(400.0, precision="fp32")
    promised = {row["width"]: row["accuracy"] for row in plan.alternatives}
    assert plan.accuracy == promised[plan.width] == max(promised.values())
    assert len(promised) >= 2
    assert any(f"width {plan.width}" in reason for reason in plan.reasons)


def test_the_precision_is_the_faster_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "bf16_is_faster", lambda: True)
    plan, _ = planned(60.0, width=8, batch_size=8)  # little work: bf16 may be a hundred times as slow here
    rates = {row["precision"]: row["images_per_second"] for row in plan.alternatives}
    assert set(rates) == {"bf16", "fp32"}
    assert plan.precision == max(rates, key=lambda name: rates[name])


def test_bf16_is_not_tried_where_its_products_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "bf16_is_faster", lambda: False)
    plan, _ = planned(2.0)
    assert {row["precision"] for row in plan.alternatives} == {"fp32"}
    assert plan.precision == "fp32"


def test_what_is_pinned_is_kept() -> None:
    plan, _ = planned(60.0, width=12, batch_size=32, precision="fp32")
    assert (plan.width, plan.batch_size, plan.precision) == (12, 32, "fp32")
    assert plan.alternatives == []  # with nothing to decide no time is spent on measuring
    plan_only, _ = planned(60.0, width=12, batch_size=32, precision="fp32", plan_only=True)
    assert [row["width"] for row in plan_only.alternatives] == [12]
    assert plan_only.epochs > 0


def test_no_more_epochs_are_promised_than_will_be_trained() -> None:
    plan, _ = planned(400.0, precision="fp32", width=12, max_epochs=2, plan_only=True)
    assert plan.epochs == plan.alternatives[0]["epochs"] == 2
    needed = 10_000 / plan.images_per_second
    words = f"training will end after 2 epochs (max_epochs), in about {needed:.0f} of {plan.seconds_left:.0f} s"
    assert plan.reasons[-1] == words
    plan, _ = planned(4.0, precision="fp32", width=12, max_epochs=1e6, plan_only=True)
    assert plan.epochs < 1000
    assert not any("will end" in reason for reason in plan.reasons)


def test_a_pinned_batch_is_the_one_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = set()
    step = Training.step

    def watched(self: Training, indices: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        sizes.add(len(indices))
        step(self, indices, optimizer)

    monkeypatch.setattr(Training, "step", watched)
    planned(2.0, batch_size=32, precision="fp32")
    assert sizes == {32}


def test_progressive_resizing_is_in_the_plan() -> None:
    config = resolve(recipe="auto", budget=5, with_tricks=["progressive_resizing"], settings={"width": 8})
    images = torch.zeros(100, 32, 32, 3, dtype=torch.uint8)
    assert make_plan(config, images, torch.arange(100) % 10, 10, 5.0).resolutions == [16, 24, 32]
