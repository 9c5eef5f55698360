"""Which tricks a run has, and with which hyperparameters: added, taken out, checked."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from speedtrain.checked_types import checked_types, nearest
from speedtrain.errors import UserError

Tricks = dict[str, dict[str, Any]]
"""Name → hyperparameters, in the order in which they wrap."""


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


def take_mirror_out(chosen: Tricks) -> None:
    """Changes test-time augmentation to views that are not mirrored, or takes it out where it has no others."""
    augmentation = chosen.get("test_time_augmentation")
    if isinstance(augmentation, Mapping):
        if augmentation.get("mode") == "mirror+shift":
            chosen["test_time_augmentation"] = {**augmentation, "mode": "shift"}
        elif augmentation.get("mode", "mirror") == "mirror":
            del chosen["test_time_augmentation"]
