"""What is trained, and what is compared with what."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any, Literal, get_args

from speedtrain.config import Config, nearest, resolve
from speedtrain.errors import UserError

Kind = Literal["drop-one", "add-one", "all-subsets", "pairs"]
KINDS: tuple[str, ...] = get_args(Kind)
MANY = 500
"""Trials that nobody asks for without saying so twice."""


@dataclass(frozen=True)
class Comparison:
    """A question to the trials: what is `label` worth?

    Attributes:
        label: what is added, in words.
        weights: variant → weight of its accuracy, as in {"all": 1, "without sam": -1}. The sum of weighted
            accuracies, seed by seed, is the paired difference. Weights sum to zero.
    """

    label: str
    weights: Mapping[str, float]


@dataclass(frozen=True)
class Design:
    """Variants by name, each a configuration that lacks only its seed, and the questions they answer."""

    variants: Mapping[str, Config]
    comparisons: Sequence[Comparison]


def make_design(
    kind: str = "drop-one",
    tricks: Sequence[str] | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
    *,
    seeds: int,
    many: bool = False,
    **told: Any,
) -> Design:
    """The variants of a design around a recipe.

    Args:
        kind: drop-one (all tricks, and all but each), add-one (none of them, and each alone), all-subsets, or
            pairs (none, each alone, each two together).
        tricks: which are varied; those the recipe lacks are added to it. Default: all that the recipe has.
        vary: hyperparameter → values, all combinations of which are crossed with the design; the first ones are
            the reference. A trick's hyperparameter is varied only where the trick is on.
        seeds: how many each variant is trained with.
        many: go on even if that makes more than `MANY` trials.
        told: as for `resolve`: recipe, budget, settings, …

    Raises:
        UserError: unknown design, trick or value; nothing to compare; or too many trials.
    """
    if kind not in KINDS:
        raise UserError(f"--design {kind}: no such design{nearest(kind, KINDS)}")
    base = resolve(**told)
    varied = list(base.tricks) if tricks is None else list(dict.fromkeys(tricks))
    settings = {key: list(dict.fromkeys(values)) for key, values in (vary or {}).items()}
    if "seed" in settings:
        raise UserError("--vary seed: every variant gets the same seeds; say how many with --seeds")
    for key, values in settings.items():
        if not values:
            raise UserError(f"--vary {key}: no values")
    combined = 1
    for values in settings.values():
        combined *= len(values)
    _guard(_count(kind, len(varied)) * combined * seeds, many)

    cells = list(_cells(kind, varied))
    questions = _questions(kind, varied, cells)
    everything = [*base.tricks, *(name for name in varied if name not in base.tricks)]
    variants: dict[str, Config] = {}

    def variant(cell: frozenset[str], values: Mapping[str, Any]) -> str:
        """Adds one variant, or finds it again; returns its name."""
        on = [name for name in everything if name in cell or name not in varied]
        _check_settings(values, everything)
        applying = {key: value for key, value in values.items() if "." not in key or key.partition(".")[0] in on}
        told_settings = {
            key: value
            for key, value in (told.get("settings") or {}).items()
            if "." not in key or key.partition(".")[0] in on
        }
        hyperparameters = {name: base.tricks.get(name, {}) for name in on}
        fixed = {**told, "tricks": hyperparameters, "with_tricks": (), "without": ()}
        try:
            config = resolve(**{**fixed, "settings": {**told_settings, **applying}})
        except UserError as error:  # what was told without --vary has been resolved already
            raise UserError(str(error).replace("--set ", "--vary ", 1)) from None
        name = ", ".join([_cell_name(kind, cell, varied), *(f"{key}={value}" for key, value in applying.items())])
        variants.setdefault(name, config)
        return name

    comparisons: list[Comparison] = []
    places = [dict(zip(settings, values, strict=True)) for values in product(*settings.values())]
    reference = cells[0]
    for place in places:
        names = {cell: variant(cell, place) for cell in cells}
        where = f" at {_settings_name(place)}" if len(places) > 1 else ""
        for label, weights in questions:
            named: dict[str, float] = {}
            for cell, weight in weights.items():
                named[names[cell]] = named.get(names[cell], 0.0) + weight
            comparisons.append(Comparison(label + where, named))
        if place != places[0] and (here := names[reference]) != (first := variant(reference, places[0])):
            changed = {key: value for key, value in place.items() if value != places[0][key]}
            before = {key: places[0][key] for key in changed}
            label = f"{_settings_name(changed)} instead of {_settings_name(before)}"
            comparisons.append(Comparison(label, {here: 1.0, first: -1.0}))
    if not comparisons:
        raise UserError("nothing to compare: the recipe has no trick to vary; give --tricks a,b or --vary key=1,2")
    return Design(variants, comparisons)


def with_threads(design: Design, threads: int) -> Design:
    """The same design, each trial on so many threads."""
    variants = {name: replace(config, threads=threads) for name, config in design.variants.items()}
    return replace(design, variants=variants)


def _count(kind: str, tricks: int) -> int:
    pairs = tricks * (tricks - 1) // 2
    return {"all-subsets": 2**tricks, "pairs": 1 + tricks + pairs}.get(kind, 1 + tricks)


def _guard(trials: int, many: bool) -> None:
    if trials > MANY and not many:
        raise UserError(f"that is a design of {trials:,} trials; if you mean it, say --yes")


def _cells(kind: str, tricks: Sequence[str]) -> Iterator[frozenset[str]]:
    """The sets of varied tricks that are on, the reference first."""
    if kind == "drop-one":
        yield frozenset(tricks)
        yield from (frozenset(tricks) - {name} for name in tricks)
        return
    sizes = {"add-one": 1, "pairs": 2, "all-subsets": len(tricks)}[kind]
    for size in range(min(sizes, len(tricks)) + 1):
        yield from map(frozenset, combinations(tricks, size))


def _questions(
    kind: str, tricks: Sequence[str], cells: Sequence[frozenset[str]]
) -> list[tuple[str, dict[frozenset[str], float]]]:
    """Labels, and the weight of each cell."""
    none: frozenset[str] = frozenset()
    if kind == "drop-one":
        every = frozenset(tricks)
        return [(name, {every: 1.0, every - {name}: -1.0}) for name in tricks]
    if kind == "all-subsets":  # the main effects: every trial says something of every trick
        half = len(cells) / 2
        return [(name, {cell: (1 if name in cell else -1) / half for cell in cells}) for name in tricks]
    asked: list[tuple[str, dict[frozenset[str], float]]] = [
        (name, {frozenset({name}): 1.0, none: -1.0}) for name in tricks
    ]
    if kind == "pairs":  # what two together are worth beyond the sum of each alone
        asked += [
            (f"{a} × {b}", {frozenset({a, b}): 1.0, frozenset({a}): -1.0, frozenset({b}): -1.0, none: 1.0})
            for a, b in combinations(tricks, 2)
        ]
    return asked


def _cell_name(kind: str, cell: frozenset[str], varied: Sequence[str]) -> str:
    if kind == "drop-one":
        missing = [name for name in varied if name not in cell]
        return f"without {missing[0]}" if missing else "reference"
    return " + ".join(name for name in varied if name in cell) or "reference"


def _settings_name(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def _check_settings(values: Mapping[str, Any], tricks: Sequence[str]) -> None:
    for key in values:
        trick, dot, _ = key.partition(".")
        if dot and trick not in tricks:
            raise UserError(f"--vary {key}: the trick {trick!r} is not on{nearest(trick, tricks) if tricks else ''}")
