"""One network or several in one budget: which of them the scaling law predicts to be most accurate here.

On a CPU, two networks have half of the cores each, so each trains for half of the epochs of one. On a GPU, each trains
as fast as was measured of two at once. Where that costs less accuracy than the average of the two gains, two are
better: in long budgets, in which one network gains little from more time. Of more networks the same holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from speedtrain.config import Config
from speedtrain.errors import UserError
from speedtrain.machine import free_memory
from speedtrain.member_configs import member_configs, with_shares
from speedtrain.training.epoch_limit import limited_epochs
from speedtrain.training.long_runs import gain_of_long_runs
from speedtrain.training.scaling_law import RESNET9_RANGE, is_fitted, law_for

if TYPE_CHECKING:
    from speedtrain.training.plan import Plan

Network = TypeVar("Network")

KEYS = ("gain", "networks")
RULED_OUT = "one network: several at once (or_members) are for the recipe as it is, without --snapshots"
"""What is said where `are_ruled_out`."""
MOST = 4
"""Networks that are considered, the recipe's own twice if need be: on an H100, eight were no better than four."""
TWICE = 1.2
"""What the average of twice the recipe's networks gains, in times of what that of themselves gains. On an H100, two
gained 1.1 points in one run, and four 1.2 to 2.1 in six (docs/experiments.md)."""
LEAST_SECONDS = 100.0
LEAST_SECONDS_GPU = 60.0
"""In shorter budgets several networks are not considered: they would spend a large share on starting."""
CORES_BESIDE_GPU = 4
"""For each network on a GPU. With four each, four networks trained nearly as fast as one alone; with two each, eight
trained half as fast."""
LARGEST_SIDE = 128
"""Of images, in pixels. Larger ones were not measured, and the strided stem cannot be mirror-equivariant for many of
their sides, such as 224."""
STARTS = 2.0
STARTS_GPU = 1.25
"""What members need to start and plan once more, in times of what this process needed: on a CPU each has a part of the
cores (measured with two of them). Beside an H100, four needed 1.1 times as long as one."""


def considered_members(config: Config, side: int | None = None) -> tuple[Config, ...]:
    """The networks of `or_members`, where the planner may train them, or more such, in place of one network; else none.

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


def considered_numbers(
    config: Config, networks: Sequence[Config], side: int, num_images: int, num_classes: int
) -> list[int]:
    """How many networks the planner weighs against one: those of `considered_members`, or these twice.

    None in a short budget, with too few cores, for larger images, and for fewer or more images a class than those of
    the law.
    """
    low, high = RESNET9_RANGE.per_class
    if not (networks and _may_be_several(config, side) and low <= num_images / num_classes <= high):
        return []
    once, twice = len(networks), 2 * len(networks)
    return [once, twice] if twice <= MOST and _enough_cores(config, twice) else [once]


def repeated(networks: Sequence[Network], number: int) -> list[Network]:
    """So many networks: those given, and again from the first."""
    return [networks[place % len(networks)] for place in range(number)]


def average_gain(config: Config, number: int) -> float:
    """By which share of the answers the average of the recipe's networks, or of these twice, is better than each."""
    assert config.or_members is not None
    gain: float = config.or_members["gain"]
    return gain if number == len(config.or_members["networks"]) else TWICE * gain


def _enough_cores(config: Config, number: int) -> bool:
    each = CORES_BESIDE_GPU if _on_gpu(config) else 1
    return config.threads is None or config.threads >= number * each


def _on_gpu(config: Config) -> bool:
    return config.device.startswith("cuda")


def _may_be_several(config: Config, side: int | None) -> bool:
    assert config.or_members is not None
    least = LEAST_SECONDS_GPU if _on_gpu(config) else LEAST_SECONDS
    enough = _enough_cores(config, len(config.or_members["networks"])) and config.budget >= least
    return enough and (side is None or side <= LARGEST_SIDE)


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
) -> tuple[tuple[Config, ...], str | None]:
    """The networks whose average is predicted to be more accurate than one network, and than fewer or more of them.

    Args:
        config: of the run, with its device and threads.
        plan: for one network. On a GPU with the speeds of several at once.
        networks: the several, as from `considered_members`.
        num_images, num_classes: N and K.
        spent: seconds that this process needed to start, to load and to plan.
        memory: bytes that it needed for this at most; each of the networks needs about as much.

    Returns:
        The networks, none if one network is better, and the reason; no reason where several are not considered.
    """
    numbers = considered_numbers(config, networks, plan.side, num_images, num_classes)
    left = plan.seconds_left
    if not numbers or left == 0:
        return (), None
    starting = (STARTS_GPU if _on_gpu(config) else STARTS) * spent
    least = len(networks)
    if starting >= left:
        return (), f"one network: too little time to start {least}"
    speeds = {number: plan.at_once.get(number, 1 / number) for number in numbers}
    fitting = [number for number, speed in speeds.items() if speed and number * memory <= free_memory()]
    if not fitting:
        return (), f"one network: too little memory for {least} at once"

    law = law_for(plan.side)

    def least_error(speed: float, seconds: float) -> float:
        """Of the measured networks, each at a share of its speed."""

        def error(width: int, rate: float) -> float:
            epochs = limited_epochs(config, width, speed * rate * seconds / num_images, num_images)
            return law.error(width, epochs, num_images, num_classes) - gain_of_long_runs(config, width, epochs)

        return min(error(row["width"], row["images_per_second"]) for row in plan.alternatives)

    def points(number: int) -> float:
        several = least_error(speeds[number], left - starting)
        return 100 * (least_error(1.0, left) - several + average_gain(config, number))

    best = max(fitting, key=points)
    if points(best) > 0:
        reason = f"{best} networks at once: their average is predicted {points(best):.1f} points better than one"
        if best in plan.at_once:
            reason += f" (each at {speeds[best]:.0%} of the speed of one alone)"
        return with_shares(repeated(networks, best), config), reason
    return (), f"one network: the average of {best} at once is predicted {-points(best):.1f} points worse"
