"""Several networks in one budget: what each has of its own.

A recipe names its members, and how each differs from the rest of the recipe:

    members:
      - {}
      - {with: mirror_equivariance, muon.lr: 0.07}

They train at the same time, each on its share of the cores, and the answers of all are averaged. Or a recipe leaves it
to the planner whether members are trained, or one network:

    or_members:
      gain: 0.01
      networks: [{}, {with: mirror_equivariance}]
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import yaml

from speedtrain.checked_types import nearest
from speedtrain.chosen_tricks import is_trick, names_in_long_runs
from speedtrain.config import Config, resolve
from speedtrain.errors import UserError

MOST = 16
"""Members of one run."""

OWN_KEYS = (
    *("model", "width", "batch_size", "precision", "head_scale"),
    *("lr", "momentum", "nesterov", "weight_decay", "schedule"),
)
"""Keys of a recipe that a member may have of its own, beside its tricks and their hyperparameters."""

PLANNED = "planned"
"""Key under which the planner's decisions for a member stand in the configuration of a run."""


def member_configs(config: Config) -> tuple[Config, ...]:
    """The complete configuration of each member; none where there is one network.

    Raises:
        UserError: a member asks for something that does not exist, or that all members must share.
    """
    if not config.members:
        return ()
    number = len(config.members)
    if number > MOST:
        raise UserError(f"members: {number} are too many; at most {MOST}")
    for key, given in {"--from": config.start_from, "pretrained": config.pretrained}.items():
        if given:
            raise UserError(f"members and {key}: several networks start from random weights; take one of the two out")
    if config.snapshots:
        raise UserError("members and snapshots: weights on the way are kept of a single network only; take one out")
    shared = {**yaml.safe_load(config.as_yaml()), "members": [], "or_members": None}
    return with_shares([_member(shared, member, place) for place, member in enumerate(config.members, 1)], config)


def with_shares(members: Sequence[Config], config: Config) -> tuple[Config, ...]:
    """The same members, each with its share of what `config` has: seed, threads, device, budget.

    A member's seed is `seed` times the number of members, plus its own number from 0: no two runs with different seeds
    share one. It gets one thread at least.
    """
    number = len(members)
    return tuple(
        replace(
            member,
            budget=config.budget,
            device=config.device,
            seed=(config.seed * number + place) % 2**63,
            threads=None if config.threads is None else max(1, (config.threads + place) // number),
        )
        for place, member in enumerate(members)
    )


def in_words(member: Mapping[str, Any]) -> str:
    """What a member has of its own, for people."""
    parts = [f"{word} {', '.join(_names(member[word]))}" for word in ("with", "without") if member.get(word)]
    parts += [f"{key}={value}" for key, value in member.items() if key not in ("with", "without", PLANNED)]
    if added := (member.get(PLANNED) or {}).get("with"):
        parts.append(f"added by the planner: {', '.join(added)}")
    return ", ".join(parts) or "the recipe"


def _member(shared: Mapping[str, Any], member: Mapping[str, Any], number: int) -> Config:
    planned = member.get(PLANNED) or {}
    if not isinstance(planned, Mapping):
        raise UserError(f"members: number {number}: {PLANNED} must be a mapping, got {planned!r}")
    own = {key: value for key, value in member.items() if key not in ("with", "without", PLANNED)}
    settings = {**{key: value for key, value in planned.items() if key != "with"}, **own}
    for key in settings:
        if "." not in str(key) and key not in OWN_KEYS:
            raise UserError(f"members: number {number} has {key!r}{nearest(str(key), ('with', 'without', *OWN_KEYS))}")
    try:
        added, removed = _names(member.get("with")), _names(member.get("without"))
        in_long_runs = _in_long_runs(shared["in_long_runs"], removed, settings)
        shared = {**shared, "in_long_runs": in_long_runs}
        # what is off already need not be taken out, and has nothing to set: the recipe may have been changed
        for name in _names(planned.get("with")):
            if name in names_in_long_runs(in_long_runs) and name not in shared["tricks"]:
                added.append(name)
                values = (in_long_runs or {})["tricks"][name]
                settings = {**{f"{name}.{key}": value for key, value in values.items()}, **settings}
        on = {*shared["tricks"], *added}
        settings = {key: value for key, value in settings.items() if _trick(key) is None or _trick(key) in on}
        removed = [name for name in removed if name in on or not is_trick(name)]
        return resolve(recipe=shared, with_tricks=added, without=removed, settings=settings)
    except UserError as error:
        raise UserError(f"members: number {number}: {str(error).replace('--set ', '')}") from None


def _in_long_runs(
    shared: Mapping[str, Any] | None, without: Sequence[str], settings: Mapping[str, Any]
) -> dict[str, Any] | None:
    """`in_long_runs` of a member: without what it takes out, and with its own hyperparameters."""
    if shared is None:
        return None
    tricks = {name: dict(values) for name, values in shared["tricks"].items() if name not in without}
    for key, value in settings.items():
        name, _, hyperparameter = str(key).partition(".")
        if name in tricks:
            tricks[name][hyperparameter] = value
    return {**shared, "tricks": tricks} if tricks else None


def _trick(key: str) -> str | None:
    """The trick whose hyperparameter a key is; None for other keys, and where there is no such trick."""
    name, dot, _ = str(key).partition(".")
    return name if dot and is_trick(name) else None


def _names(given: Any) -> list[str]:
    """`with` and `without` take one trick, or a list of them."""
    names = [given] if isinstance(given, str) else given or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"must be the name of a trick or a list of names, got {given!r}")
    return names
