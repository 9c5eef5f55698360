"""After how many epochs training ends, by the recipe."""

import math
from dataclasses import replace

import pytest

from speedtrain.config import resolve
from speedtrain.errors import UserError
from speedtrain.member_configs import member_configs
from speedtrain.training.epoch_limit import epoch_limit


def test_the_default_recipe_has_seen_enough_after_150_epochs_or_250_000_images() -> None:
    config = resolve(budget=600)
    assert config.max_epochs == "auto"
    assert [epoch_limit(config, number) for number in (500, 5000, 50_000)] == [500, 150, 150]


def test_nothing_limits_what_was_not_measured_nor_the_paper() -> None:
    config = resolve(budget=600)
    assert epoch_limit(resolve(budget=600, recipe="paper"), 5000) == math.inf
    assert epoch_limit(resolve(budget=600, model="timm:resnet18"), 5000) == math.inf
    assert epoch_limit(replace(config, start_from="run"), 5000) == math.inf
    assert epoch_limit(replace(config, pretrained=True), 5000) == math.inf


def test_a_given_limit_is_that_of_every_member_and_null_is_none() -> None:
    for given, expected in ((2.5, 2.5), (40, 40.0), (None, math.inf)):
        config = resolve(budget=600, recipe="two", settings={"max_epochs": given}, device="cpu")
        assert [epoch_limit(each, 5000) for each in (config, *member_configs(config))] == 3 * [expected]


@pytest.mark.parametrize("given", [0, -1, "many", math.inf, True])
def test_a_limit_is_positive_and_finite(given: object) -> None:
    with pytest.raises(UserError, match="max_epochs must be"):
        resolve(budget=600, settings={"max_epochs": given})
