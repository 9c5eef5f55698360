"""One plan for all variants, of members that of each."""

from pathlib import Path
from typing import Any

import numpy as np

from speedtrain.ablation.design import make_design
from speedtrain.ablation.shared_plan import plan_once_for_all
from speedtrain.config import Config
from speedtrain.data import Images
from speedtrain.member_configs import member_configs
from speedtrain.run.launcher import plan_of_members


class Machine:
    """On which member 1 gets a network of width 12, and member 2 one of 24; it counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def plan(self, config: Config, train: Images) -> dict[str, Any]:
        self.asked += 1
        common = {"model": "resnet9", "side": 32, "precision": "fp32", "resolutions": [32], "batch_size": 64}
        speed = {"images_per_second": 100.0, "seconds_left": 30.0, "epochs": 3.0}
        return plan_of_members([{**common, **speed, "width": width} for width in (12, 24)])


def test_every_variant_keeps_what_was_planned_for_each_member(tmp_path: Path) -> None:
    members = [{}, {"with": "mirror_equivariance", "muon.lr": 0.05}]
    design = make_design(tricks=["flip"], seeds=1, budget=9, settings={"members": members})
    images = Images("some", np.zeros((20, 32, 32, 3), np.uint8), np.arange(20) % 2, ("a", "b"))
    machine: Any = Machine()
    planned, plans = plan_once_for_all(design, images, tmp_path / "plan.json", machine)
    again, _ = plan_once_for_all(design, images, tmp_path / "plan.json", machine)  # as a resumed sweep does
    assert machine.asked == 1
    assert again == planned
    for config in planned.variants.values():
        first, second = member_configs(config)
        assert [(each.width, each.batch_size, each.precision) for each in (first, second)] == [
            (12, 64, "fp32"),
            (24, 64, "fp32"),
        ]
        assert "mirror_equivariance" not in first.tricks
        assert second.tricks["muon"]["lr"] == 0.05
    # a search puts the plan over the recipe, so it holds the members whole
    assert plans["reference"]["members"][1]["with"] == "mirror_equivariance"
