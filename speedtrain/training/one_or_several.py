"""One network or several in one budget: which of the two the scaling law predicts to be more accurate here.

Two networks have half of the cores each, so each trains for half of the epochs of one. Where that costs less accuracy
than the average of the two gains, two are better: in long budgets, in which one network gains little from more time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from speedtrain.config import Config
from speedtrain.errors import UserError
from speedtrain.machine import free_memory
from speedtrain.member_configs import member_configs
from speedtrain.training.scaling_law import RESNET9_RANGE, is_fitted, law_for

if TYPE_CHECKING:
    from speedtrain.training.planner import Plan

KEYS = ("gain", "networks")
LEAST_SECONDS = 100.0
"""In shorter budgets several networks are not considered: they would spend a large share on starting."""
LARGEST_SIDE = 64
"""Of images, in pixels. Larger ones were not measured, and not every side of them has a mirror-equivariant network."""
STARTS = 2.0
"""What members need to start and plan once more, in times of what this process needed: each has a part of the cores."""


def considered_members(config: Config, side: int | None = None) -> tuple[Config, ...]:
    """The networks of `or_members`, where the planner may train them in place of one network; else none.

    The law must know what one network reaches. So they are considered for the recipe that the law was fitted to, from
    random weights, with width and batch size left to the planner.

    Args:
        config: of the run. Its device and threads count where they are decided.
        side: of the training images, in pixels. Default: not known yet.

    Raises:
        UserError: `or_members` is not what it should be.
    """
    if config.or_members is None:
        return ()
    networks = _checked_networks(config.or_members)
    try:
        members = member_configs(replace(config, members=networks, start_from=None, pretrained=False, snapshots=0))
    except UserError as error:
        raise UserError(f"or_{error}") from None
    return members if not config.members and _may_be_several(config, side) and _is_default(config) else ()


def are_ruled_out(config: Config, side: int) -> bool:
    """Whether `or_members` would be considered, were it not for settings that are not those of the default recipe."""
    return bool(config.or_members) and not config.members and _may_be_several(config, side) and not _is_default(config)


def _may_be_several(config: Config, side: int | None) -> bool:
    assert config.or_members is not None
    enough_cores = config.threads is None or config.threads >= len(config.or_members["networks"])
    on_cpu = not config.device.startswith("cuda")
    return on_cpu and enough_cores and (side is None or side <= LARGEST_SIDE) and config.budget >= LEAST_SECONDS


def _is_default(config: Config) -> bool:
    one_of_ours = config.model == "resnet9" and config.from_random and not config.snapshots
    return one_of_ours and config.width == config.batch_size == "auto" and is_fitted(config)


def _checked_networks(given: Mapping[str, object]) -> list[dict[str, object]]:
    gain, networks = given.get("gain"), given.get("networks")
    if set(given) != set(KEYS) or not isinstance(networks, list) or len(networks) < 2:
        raise UserError(f"or_members: needs a gain and two networks or more, as in configs/auto.yaml; got {given!r}")
    for network in networks:
        if not isinstance(network, dict):
            raise UserError(f"or_members: a network must be a mapping, as in {{with: cutmix}}; got {network!r}")
    if isinstance(gain, bool) or not isinstance(gain, int | float) or not 0 < gain < 1:
        raise UserError(f"or_members: the gain is a share of the answers, above 0 and below 1; got {gain!r}")
    return networks


def weigh(
    config: Config,
    plan: "Plan",
    networks: Sequence[Config],
    num_images: int,
    num_classes: int,
    *,
    spent: float,
    memory: int,
) -> tuple[bool, str | None]:
    """Whether the average of several networks is predicted to be more accurate than one network.

    Args:
        config: of the run, with its device and threads.
        plan: for one network.
        networks: the several, as from `considered_members`.
        num_images, num_classes: N and K.
        spent: seconds that this process needed to start, to load and to plan.
        memory: bytes that it needed for this at most; each of the networks needs about as much.

    Returns:
        Whether it is, and the reason. False and None where that is not known: on a GPU, with fewer cores than networks,
        in a short budget, for larger images, and for fewer or more images a class than those of the law.
    """
    number, (low, high) = len(networks), RESNET9_RANGE.per_class
    known = _may_be_several(config, plan.side) and low <= num_images / num_classes <= high
    if not known or plan.epochs == 0:
        return False, None
    left = plan.epochs * num_images / plan.images_per_second
    share = (1 - STARTS * spent / left) / number  # of the epochs of one network
    if share <= 0:
        return False, f"one network: too little time to start {number}"
    if number * memory > free_memory():
        return False, f"one network: too little memory for {number} at once"

    law = law_for(plan.side)

    def least_error(of_epochs: float) -> float:
        errors = (
            law.error(row["width"], of_epochs * row["epochs"], num_images, num_classes) for row in plan.alternatives
        )
        return min(errors)

    assert config.or_members is not None
    points = 100 * (least_error(1.0) - least_error(share) + config.or_members["gain"])
    if points > 0:
        return True, f"{number} networks at once: their average is predicted {points:.1f} points better than one"
    return False, f"one network: the average of {number} at once is predicted {-points:.1f} points worse"
