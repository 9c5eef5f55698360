"""Which tricks a run has, and with which hyperparameters: added, taken out, checked."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any

from speedtrain.checked_types import checked_types, nearest
from speedtrain.errors import UserError

Tricks = dict[str, dict[str, Any]]
"""Name → hyperparameters, in the order in which they wrap."""


AUGMENTATIONS = ("random_crop", "random_resized_crop", "flip", "trivial_augment", "cutout", "cutmix", "mixup")
"""Tricks that change images, not the network, the steps or the images' size: the planner may add them."""
LONG_RUNS = {"width_times_epochs", "gain", "tricks"}
"""Keys of `in_long_runs`."""


def is_trick(name: str) -> bool:
    """Whether there is a trick of this name."""
    from tricks import TRICKS

    return name in TRICKS


def with_trick(name: str, chosen: Tricks) -> Tricks:
    """`chosen` with one trick more, before the first that by default wraps around it.

    Raises:
        UserError: no such trick.
    """
    from tricks import TRICKS

    if name not in TRICKS:
        raise UserError(f"unknown trick {name!r}{nearest(name, TRICKS)}")
    if name in chosen:
        return chosen
    rank = {known: position for position, known in enumerate(TRICKS)}
    names = list(chosen)
    outside = (position for position, other in enumerate(names) if rank.get(other, -1) > rank[name])
    names.insert(next(outside, len(names)), name)
    return {each: chosen.get(each, {}) for each in names}


def with_ranks(chosen: Tricks, ranks: Sequence[int] | None) -> Tricks:
    """`chosen` with ranks that were timed for `low_rank`; as it is where none were."""
    if ranks is None:
        return chosen
    return {**chosen, "low_rank": {**chosen["low_rank"], "ranks": list(ranks)}}


def with_added(chosen: Tricks, added: Mapping[str, dict[str, Any]]) -> Tricks:
    """`chosen` with the tricks that the planner added, each where it wraps by default."""
    for name, values in added.items():
        chosen = {**with_trick(name, chosen), name: values}
    return chosen


def with_planned(chosen: Tricks, ranks: Sequence[int] | None, added: Mapping[str, dict[str, Any]]) -> Tricks:
    """`chosen` with what the planner decided: the ranks of `low_rank`, and the tricks of a long run."""
    return with_added(with_ranks(chosen, ranks), added)


def checked_trick(name: str, values: Any) -> dict[str, Any]:
    """All hyperparameters of a trick, the defaults included."""
    from tricks import TRICKS, TrickError  # torch comes with it, so it comes late

    if name not in TRICKS:
        raise UserError(f"unknown trick {name!r}{nearest(name, TRICKS)}")
    kind: Any = TRICKS[name]  # a dataclass, which the type of the base class does not express
    valid = [entry.name for entry in fields(kind)]
    if not isinstance(values, Mapping):
        raise UserError(f"{name}: hyperparameters must be a mapping, as in {name}: {{}}; got {values!r}")
    for key in values:
        if key not in valid:
            hint = nearest(str(key), valid) if valid else "; it has none"
            raise UserError(f"{name} has no hyperparameter {key!r}{hint}")
    typed = checked_types(kind, values, f"{name}.")
    try:
        kind(**typed)
    except TrickError as error:
        raise UserError(f"{name}: {error}") from None
    return typed


def names_in_long_runs(given: Any) -> list[str]:
    """The tricks of `in_long_runs` of a recipe; none if it is not what it should be."""
    tricks = given.get("tricks") if isinstance(given, Mapping) else None
    return list(tricks) if isinstance(tricks, Mapping) else []


def checked_long_runs(given: Any, without: Collection[str] = ()) -> dict[str, Any] | None:
    """`in_long_runs` of a recipe, with all hyperparameters of its tricks.

    Args:
        given: as in the recipe.
        without: tricks that the user takes out. `flip` takes out all that change images. Default: none.

    Returns:
        None if no trick is left.
    """
    if not isinstance(given, Mapping) or set(given) != LONG_RUNS or not isinstance(given["tricks"], Mapping):
        raise UserError(
            f"in_long_runs: needs width_times_epochs, a gain and tricks, as in configs/auto.yaml; got {given!r}"
        )
    for key, most in (("width_times_epochs", math.inf), ("gain", 1.0)):
        value = given[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < most:
            words = "above 0" + (f" and below {most:g}" if most < math.inf else "")
            raise UserError(f"in_long_runs: {key} is a number {words}; got {value!r}")
    tricks = {}
    for name, values in given["tricks"].items():
        if name not in AUGMENTATIONS:
            raise UserError(f"in_long_runs: {name!r} cannot be added{nearest(str(name), AUGMENTATIONS)}")
        if name not in without and "flip" not in without:
            tricks[name] = checked_trick(name, {} if values is None else values)
    return {**given, "tricks": tricks} if tricks else None


def take_mirror_out(chosen: Tricks) -> None:
    """Changes test-time augmentation to views that are not mirrored, or takes it out where it has no others."""
    augmentation = chosen.get("test_time_augmentation")
    if isinstance(augmentation, Mapping):
        if augmentation.get("mode") == "mirror+shift":
            chosen["test_time_augmentation"] = {**augmentation, "mode": "shift"}
        elif augmentation.get("mode", "mirror") == "mirror":
            del chosen["test_time_augmentation"]
