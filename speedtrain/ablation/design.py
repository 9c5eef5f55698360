"""A design: which variants of a recipe are trained, and which of them are compared."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

from speedtrain.ablation.design_kinds import KINDS, Cell, DesignKind
from speedtrain.ablation.sweep_labels import with_labels
from speedtrain.checked_types import nearest
from speedtrain.chosen_tricks import with_trick
from speedtrain.config import Config, default_recipe, resolve
from speedtrain.data import Data
from speedtrain.errors import UserError
from speedtrain.member_configs import member_configs
from speedtrain.starting_point import find_trained_run

MANY = 500
"""A design of more trials than this must be confirmed by `--yes`."""


@dataclass(frozen=True)
class Comparison:
    """A question to the trials: how much does `label` gain?

    Attributes:
        label: what is added, in words.
        weights: variant → weight of its score, as in {"all": 1, "without sam": -1}. The weighted sum of the scores for
            one seed is the paired difference for that seed. The weights sum to zero.
    """

    label: str
    weights: Mapping[str, float]


@dataclass(frozen=True)
class Design:
    """What is trained and compared.

    Attributes:
        variants: configurations by name; only their seed is open.
        comparisons: the questions they answer.
    """

    variants: Mapping[str, Config]
    comparisons: Sequence[Comparison]


def make_design(
    kind: str = "drop-one",
    tricks: Sequence[str] | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
    *,
    seeds: int,
    many: bool = False,
    **options: Any,
) -> Design:
    """The variants of a recipe by a kind of design, and their comparisons.

    Args:
        kind: a name in `KINDS`. Default: drop-one.
        tricks: the tricks to vary; those that the recipe lacks are added to it. Default: all tricks of the recipe.
        vary: hyperparameter → values. Every combination of values is crossed with the design; the first values are
            the reference. A trick's hyperparameter varies only where the trick is on. Default: none.
        seeds: how many seeds each variant is trained with.
        many: accept more than `MANY` trials. Default: no.
        options: as for `resolve`: recipe, budget, settings, …

    Raises:
        UserError: unknown design, trick or value; nothing to compare; or too many trials.
    """
    if kind not in KINDS:
        raise UserError(f"--design {kind}: no such design{nearest(kind, KINDS)}")
    # the settings of tricks that are varied wait until a variant has the trick, which the recipe may lack
    settings = (options.get("settings") or {}).items()
    base = resolve(
        **{
            **options,
            "settings": {key: value for key, value in settings if key.partition(".")[0] not in (tricks or ())},
        }
    )
    # one recipe for all, also where what is varied would suggest another
    options = {**options, "recipe": options.get("recipe") or default_recipe(**options)}
    start = find_trained_run(base.start_from)  # its network keeps the tricks that shaped it
    changeable = [name for name in base.tricks if start is None or name not in start.tricks()]
    varied = changeable if tricks is None else list(tricks)
    if len(set(varied)) < len(varied):
        raise UserError(f"--tricks: {max(varied, key=varied.count)} is given twice")
    values = _check_values(vary or {})
    trials = KINDS[kind].count(len(varied)) * prod(map(len, values.values())) * seeds
    if trials > MANY and not many:
        raise UserError(f"that is a design of {trials:,} trials; if you mean it, say --yes")

    cells, questions = KINDS[kind].cells(varied), KINDS[kind].questions(varied)
    variants = _Variants(KINDS[kind], base, varied, options)
    grid = [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]
    comparisons: list[Comparison] = []
    for settings in grid:
        names = {cell: variants.add(cell, settings) for cell in cells}
        suffix = f" at {_words(settings)}" if len(grid) > 1 else ""
        for label, weights in questions:
            comparisons.append(Comparison(label + suffix, _sum_by_name(names, weights)))
        name, first_name = names[cells[0]], variants.add(cells[0], grid[0])
        if name != first_name:
            changed = {key: value for key, value in settings.items() if value != grid[0][key]}
            label = f"{_words(changed)} instead of {_words({key: grid[0][key] for key in changed})}"
            comparisons.append(Comparison(label, {name: 1.0, first_name: -1.0}))
    if not comparisons:
        raise UserError("nothing to compare: the recipe has no trick to vary; give --tricks a,b or --vary key=1,2")
    return Design(variants.configs, comparisons)


def with_threads(design: Design, threads: int) -> Design:
    """The same design, with that number of threads per trial."""
    variants = {name: replace(config, threads=threads) for name, config in design.variants.items()}
    return replace(design, variants=variants)


def with_side(design: Design, side: int) -> Design:
    """The same design, with that side where a variant names none: all of them train on the same images."""
    variants = {
        name: replace(config, side=side) if config.side == "auto" else config
        for name, config in design.variants.items()
    }
    return replace(design, variants=variants)


def with_labels_of(design: Design, data: Data) -> Design:
    """The same design, in which every variant says what several labels of an image become."""
    return replace(design, variants={name: with_labels(config, data) for name, config in design.variants.items()})


class _Variants:
    """The variants of one design, each made once.

    Attributes:
        configs: configurations by name.
    """

    def __init__(self, kind: DesignKind, base: Config, varied: Sequence[str], options: Mapping[str, Any]) -> None:
        self.configs: dict[str, Config] = {}
        self._kind, self._base, self._varied, self._options = kind, base, varied, options
        tricks = base.tricks
        for name in varied:
            tricks = with_trick(name, tricks)
        self._tricks = list(tricks)

    def add(self, cell: Cell, settings: Mapping[str, Any]) -> str:
        """Makes the variant with these varied tricks and settings, if it is new; returns its name."""
        for key in settings:
            trick, dot, _ = key.partition(".")
            if dot and trick not in self._tricks:
                known = nearest(trick, self._tricks) if self._tricks else ""
                raise UserError(f"--vary {key}: the trick {trick!r} is not on{known}")
        on = [name for name in self._tricks if name in cell or name not in self._varied]
        applying = _applying(settings, on)
        name = ", ".join([self._kind.name(cell, self._varied), *(f"{key}={value}" for key, value in applying.items())])
        if name not in self.configs:
            self.configs[name] = self._resolve(on, applying)
        return name

    def _resolve(self, on: Sequence[str], varied_settings: Mapping[str, Any]) -> Config:
        fixed_settings = _applying(self._options.get("settings") or {}, on)
        tricks = {name: self._base.tricks.get(name, {}) for name in on}
        options = {**self._options, "tricks": tricks, "with_tricks": (), "without": ()}
        try:
            config = resolve(**{**options, "settings": {**fixed_settings, **varied_settings}})
            member_configs(config)  # refuses what no member can have
            return config
        except UserError as error:
            if any(f"--set {key}:" in str(error) for key in varied_settings):
                raise UserError(str(error).replace("--set ", "--vary ", 1)) from None
            raise


def _applying(settings: Mapping[str, Any], on: Iterable[str]) -> dict[str, Any]:
    """The settings without those of tricks that are off."""
    return {key: value for key, value in settings.items() if "." not in key or key.partition(".")[0] in on}


def _check_values(vary: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """The values to vary, each once."""
    if "seed" in vary:
        raise UserError("--vary seed: every variant gets the same seeds; say how many with --seeds")
    values = {key: list(dict.fromkeys(given)) for key, given in vary.items()}
    for key, given in values.items():
        if not given:
            raise UserError(f"--vary {key}: no values")
    return values


def _sum_by_name(names: Mapping[Cell, str], weights: Mapping[Cell, float]) -> dict[str, float]:
    """Weights by variant. Two cells may be one variant, where a varied hyperparameter is of a trick that is off."""
    total: dict[str, float] = {}
    for cell, weight in weights.items():
        total[names[cell]] = total.get(names[cell], 0.0) + weight
    return total


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())
