"""The configuration of a run: recipe, command line and Python arguments come together here, and are checked."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from speedtrain.checked_types import checked_types, nearest
from speedtrain.chosen_tricks import (
    Tricks,
    checked_long_runs,
    checked_trick,
    names_in_long_runs,
    take_mirror_out,
    with_trick,
)
from speedtrain.errors import UserError
from speedtrain.learning_rate_schedule import check_schedule, lr_factor
from speedtrain.starting_point import TrainedRun, backbone_side, check_start, find_trained_run

Precision = Literal["auto", "fp32", "bf16", "fp16"]

AUTO, CIFAR10, DIGITS = DATA_SETS = ("auto", "cifar10", "digits")
"""Names for data sets that need no path."""
TORCHVISION = "torchvision:"
"""What precedes the name of one of torchvision's data sets."""
IN_MEMORY = "arrays"
"""Name for images that were given as arrays."""


@dataclass
class Config:
    """All settings of a run. Every field is a key of a recipe, and `--set` takes any of them.

    Defaults stand in the recipe `auto` alone: where a recipe leaves out a key, `auto` gives the value. But a recipe
    without `tricks` has no tricks, and one without `or_members` or `in_long_runs` has none.

    Args:
        budget: seconds of wall-clock time, from the start of the training process.
        data: training images: auto, cifar10, digits, torchvision:NAME, or a path.
        test: test images: as `data`; null for the data set's own test split, or a holdout.
        per_class: training images per class: a number, all, or null for the data set's default.
        data_root: folder to look for data sets with a name in, and to download them to.
        columns: role (image, label, split, group) → column of a CSV file.
        with_validation: whether the data's validation images join the training images.
        skip_unreadable: whether image files that cannot be read are left out.
        labels: what the labels of several annotators become: separate (null too), soft, …, or an annotator's number.
        seed: of initialisation, order, augmentation, and the ties of a majority.
        device: auto, cpu, cuda, or cuda:N for one of several GPUs.
        threads: CPU threads at most, while no other program wants the cores; null for all cores.
        model: resnet9, or timm:NAME.
        side: pixels a side of the images, or auto: 32, 48 or 64, the largest that most images can fill, and 32 where
            the budget is short for so many. With given weights, auto is what these were trained at; for timm's on a
            CPU, 160 at most.
        fit: what becomes of an image that is not square: crop (its centred square), pad (with its mean colour), or
            squash.
        pixel_max: white in images of integers wider than uint8, or auto: the largest of their depth in bits.
        width: channels of ResNet-9's first convolution, or auto: the planner's choice.
        batch_size: images per step, or auto.
        precision: fp32, bf16 or fp16 (automatic mixed precision), or auto: the fastest here.
        max_epochs: epochs after which training ends, even if there is time left; auto: from where on more were not
            measured to help ResNet-9; null: no limit.
        lr: peak learning rate of SGD.
        momentum: of SGD.
        nesterov: whether SGD's momentum is Nesterov's.
        weight_decay: of SGD, on weights of more than one dimension.
        schedule: learning rate as [progress, factor of lr] knots, linear in between.
        head_scale: factor on ResNet-9's logits.
        tricks: name → hyperparameters, in the order in which they wrap.
        start_from: weights to start from: a run's directory or its weights file, or a file of tensors for a timm model;
            null for random weights.
        pretrained: whether a timm model starts from the weights that timm offers for it.
        snapshots: from how many instants of the run to keep the weights, for its accuracy against time.
        members: what each of several networks has of its own, see `speedtrain/member_configs.py`; [] for one network.
        or_members: members to train in place of one network where the planner predicts a higher accuracy of them:
            their `networks`, and the `gain` of their average (docs/members.md); null for one network.
        in_long_runs: tricks to add where the planner predicts many epochs of a wide network, see
            `speedtrain/training/long_runs.py`; null for none.
    """

    budget: float
    data: str = "auto"
    test: str | None = None
    per_class: int | Literal["all"] | None = None
    data_root: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    with_validation: bool = False
    skip_unreadable: bool = False
    labels: int | Literal["separate", "soft", "majority", "em", "first"] | None = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    model: str = field(kw_only=True)
    side: int | Literal["auto"] = field(kw_only=True)
    fit: Literal["crop", "pad", "squash"] = field(kw_only=True)
    pixel_max: int | Literal["auto"] = field(kw_only=True)
    width: int | Literal["auto"] = field(kw_only=True)
    batch_size: int | Literal["auto"] = field(kw_only=True)
    precision: Precision = field(kw_only=True)
    max_epochs: float | Literal["auto"] | None = field(kw_only=True)
    lr: float = field(kw_only=True)
    momentum: float = field(kw_only=True)
    nesterov: bool = field(kw_only=True)
    weight_decay: float = field(kw_only=True)
    schedule: list[tuple[float, float]] = field(kw_only=True)
    head_scale: float = field(kw_only=True)
    tricks: Tricks = field(kw_only=True)
    start_from: str | None = None
    pretrained: bool = False
    snapshots: int = 0
    members: list[dict[str, Any]] = field(default_factory=list)
    or_members: dict[str, Any] | None = None
    in_long_runs: dict[str, Any] | None = None

    @property
    def from_random(self) -> bool:
        """Whether training starts from random weights."""
        return self.start_from is None and not self.pretrained

    @property
    def named_side(self) -> int | None:
        """Pixels a side of the images; None for the side that the images suggest."""
        return None if self.side == "auto" else self.side

    @property
    def named_pixel_max(self) -> int | None:
        """White in images of wide integers; None for what the images suggest."""
        return None if self.pixel_max == "auto" else self.pixel_max

    def for_prepared(self, data: Path, test: Path) -> "Config":
        """The same for images that were loaded by it and written to two `.npz` files."""
        return replace(
            self,
            data=str(data),
            test=str(test),
            per_class="all",
            data_root=None,
            columns={},
            with_validation=False,
        )

    def lr_factor(self, progress: float) -> float:
        """The schedule's factor on the learning rate at a progress in [0, 1]."""
        return lr_factor(self.schedule, progress)

    def as_yaml(self) -> str:
        """As a recipe that gives this configuration again."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        plain["schedule"] = [list(knot) for knot in self.schedule]
        plain["tricks"] = {
            name: {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
            for name, values in self.tricks.items()
        }
        return yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)


NOT_INHERITED = {"tricks": None, "or_members": None, "in_long_runs": None}  # by a recipe from auto
MOST_SNAPSHOTS = 100  # each is a save, and a prediction of all test images after the run
_KEYS = tuple(entry.name for entry in fields(Config))
_POSITIVE = (
    "budget",
    "side",
    "pixel_max",
    "width",
    "batch_size",
    "max_epochs",
    "lr",
    "head_scale",
    "threads",
    "per_class",
)
_NOT_NEGATIVE = ("momentum", "weight_decay", "seed", "snapshots")


def recipe_folder() -> Path:
    """Where the recipes lie: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).with_name("configs")
    return inside if inside.is_dir() else Path(__file__).parent.parent / "configs"


def read_recipe(recipe: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a recipe given by name, by path of a YAML file, or by themselves.

    Raises:
        UserError: no such recipe, not YAML, or a key that no recipe has.
    """
    if isinstance(recipe, Mapping):
        return dict(recipe)
    path = Path(recipe)
    if path.suffix not in (".yaml", ".yml"):
        known = sorted(file.stem for file in recipe_folder().glob("*.yaml"))
        if str(recipe) not in known:
            raise UserError(f"no recipe {str(recipe)!r}{nearest(str(recipe), known)} (or give the path of a .yaml)")
        path = recipe_folder() / f"{recipe}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"recipe {path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise UserError(f"recipe {path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"recipe {path}: must be a mapping of keys to values, as in configs/auto.yaml")
    for key in content:
        if key not in _KEYS:
            raise UserError(f"recipe {path}: unknown key {key!r}{nearest(str(key), _KEYS)}")
    return content


def _given(*, settings: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """Keys of `Config` that options and settings of `resolve` give a value."""
    return {key: value for key, value in options.items() if value is not None} | dict(settings or {})


def default_recipe(**options: Any) -> str:
    """The recipe where none is named, by the options of `resolve`."""
    given = _given(**options)
    return "finetune" if given.get("start_from") or given.get("pretrained") else "auto"


def resolve(
    *,
    recipe: str | Path | Mapping[str, Any] | None = None,
    tricks: Iterable[str] | Mapping[str, Mapping[str, Any]] | None = None,
    with_tricks: Iterable[str] = (),
    without: Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Config:
    """The checked configuration: the recipe, changed by the options.

    Args:
        recipe: name, path of a YAML file, or all its keys. Default: auto; finetune where it starts from given weights.
        tricks: exactly these tricks, with the recipe's hyperparameters where it has them; a mapping gives
            the hyperparameters along.
        with_tricks: tricks to add, each where it wraps by default.
        without: tricks to take out, also of those that a long run adds. `flip` takes the mirror images out of
            `test_time_augmentation` too, and adds nothing in long runs: whoever takes it out has classes that a mirror
            changes, and perhaps a turn.
        settings: dotted key → value, as `--set` gives.
        options: keys of `Config`; None means not given.

    Raises:
        UserError: something is unknown, of the wrong type, or out of range.
    """
    for key in options:
        if key not in _KEYS:
            raise UserError(f"unknown option {key!r}{nearest(key, _KEYS)}")
    if not isinstance(settings or {}, Mapping):
        raise UserError(f"settings must be a mapping, as in {{'sam.rho': 0.1}}, got {settings!r}")
    for key in ("data", "test", "data_root"):
        if options.get(key) == "":
            raise UserError(f"--{key.replace('_', '-')} is empty; give a name or a path")
    if both := set(with_tricks) & set(without):
        raise UserError(f"--with {min(both)} and --without {min(both)}: it can be only one of them")
    if isinstance(path := options.get("start_from"), Path):
        options["start_from"] = str(path)
    given = _given(settings=settings, **options)
    recipe = recipe or default_recipe(**given)
    defaults = {} if isinstance(recipe, Mapping) else read_recipe("auto") | NOT_INHERITED
    keys = defaults | read_recipe(recipe)
    if "members" in given:  # which networks there are is said
        keys["or_members"] = None
    start = find_trained_run({**keys, **given}.get("start_from"))
    if isinstance(tricks, str) or isinstance(with_tricks, str) or isinstance(without, str):
        raise UserError("tricks must be a list of names, as in ['sam', 'flip'], not text")
    chosen = keys.pop("tricks", None) or {}
    if not isinstance(chosen, dict):
        raise UserError(f"recipe {recipe}: tricks must be a mapping of names to hyperparameters")
    chosen = {str(name): {} if values is None else values for name, values in chosen.items()}
    if start is not None:
        chosen = start.with_its_tricks(chosen)
    if isinstance(tricks, Mapping):
        chosen = {name: {} if values is None else values for name, values in tricks.items()}
    elif tricks is not None:
        chosen = {name: chosen.get(name, {}) for name in tricks}
    for name in with_tricks:
        chosen = with_trick(name, chosen)
    if tricks is not None:  # exactly these
        keys["in_long_runs"] = None
    in_long_runs = given.get("in_long_runs", keys.get("in_long_runs"))
    added_later = names_in_long_runs(in_long_runs)
    for name in without:
        if chosen.pop(name, None) is None and name not in added_later:
            from tricks import TRICKS

            known = f"that trick is not on; on are {', '.join(chosen) or 'none'}"
            raise UserError(f"--without {name}: {known if name in TRICKS else f'no such trick{nearest(name, TRICKS)}'}")
    if "flip" in without:
        take_mirror_out(chosen)
    keys.update({key: value for key, value in options.items() if value is not None})
    for key, value in (settings or {}).items():
        trick, dot, hyperparameter = key.partition(".")
        if not dot:
            if key not in _KEYS or key == "tricks":
                from tricks import TRICKS

                if key in TRICKS:
                    raise UserError(
                        f"--set {key}: that is a trick; --with {key} adds it, --set {key}.NAME=… changes it"
                    )
                raise UserError(f"--set {key}: no such key{nearest(key, _KEYS)}")
            keys[key] = value
        elif isinstance(chosen.get(trick), Mapping):
            chosen[trick] = {**chosen[trick], hyperparameter: value}
        else:
            if trick in _KEYS:
                raise UserError(f"--set {key}: {trick} is set as a whole, as in --set {trick}=…")
            if trick in added_later:
                state, hint = "is on in long runs alone, as in_long_runs of the recipe says", ""
            else:
                state, hint = "is not on", nearest(trick, chosen) if chosen else ""
            raise UserError(f"--set {key}: the trick {trick!r} {state} (add it by --with {trick}){hint}")
    config = Config(**_checked(keys))
    config.tricks = {name: checked_trick(name, values) for name, values in chosen.items()}
    if in_long_runs is not None:
        config.in_long_runs = checked_long_runs(in_long_runs, set(without))
    networks = f"{[*config.tricks]} {config.members}"  # of a member, to take flips out is no word about its classes
    if "flip" in without and "mirror_equivariance" in networks and not isinstance(recipe, Mapping):
        remedy = "take it out too" if "mirror_equivariance" in config.tricks else "use a recipe whose members lack it"
        what = "which mirror_equivariance cannot tell apart"
        raise UserError(f"--without flip is for classes that a mirror changes, {what}; {remedy}")
    if start is not None:
        _take_network(config, start, given)
    check_start(config.start_from, config.pretrained, config.model, start)
    if start is None and not config.from_random and config.side == "auto":
        config.side = backbone_side(config.model, config.device) or "auto"
    if file := config.tricks.get("forward_correction", {}).get("file"):
        config.tricks["forward_correction"]["file"] = str(Path(file).absolute())
    if config.start_from is not None:
        config.start_from = str(Path(config.start_from).absolute())
    return config


def _take_network(config: Config, start: TrainedRun, given: Mapping[str, Any]) -> None:
    """Takes the network, and how it prepares an image, from the run whose weights training starts from.

    Raises:
        UserError: an option asks for another one.
    """
    for key, value in start.settings().items():
        if key in given and getattr(config, key) != value:
            raise UserError(f"{key} {getattr(config, key)}: the network of {start.path} has {value}; leave {key} out")
        setattr(config, key, value)
    its, chosen = start.tricks(), start.shaping(config.tricks)
    for name in dict.fromkeys([*its, *chosen]):
        if name not in chosen:
            raise UserError(f"{name}: the network of {start.path} has it, so it must stay on")
        if name not in its or checked_trick(name, its[name]) != chosen[name]:
            raise UserError(f"{name}: changes the network, which is that of {start.path}; leave it out")


def _checked(keys: dict[str, Any]) -> dict[str, Any]:
    """Types by jsonargparse, then ranges."""
    if keys.get("budget") is None:
        raise UserError("--budget is missing: give the seconds, as in --budget 60")
    values = checked_types(Config, {**keys, "tricks": {}})
    for key in _POSITIVE + _NOT_NEGATIVE:
        value = values[key]
        if isinstance(value, int | float):
            enough = value > 0 if key in _POSITIVE else value >= 0
            if not (enough and math.isfinite(value)):
                words = "positive and finite" if key in _POSITIVE else "0 or more, and finite"
                raise UserError(f"{key} must be {words}, got {value}")
    check_schedule(values["schedule"])
    if values["snapshots"] > MOST_SNAPSHOTS:
        raise UserError(f"snapshots must be at most {MOST_SNAPSHOTS}, got {values['snapshots']}")
    if values["seed"] >= 2**63:
        raise UserError(f"seed must be below 2**63, got {values['seed']}")
    if values["momentum"] >= 1:
        raise UserError(f"momentum must be below 1, got {values['momentum']}")
    if values["nesterov"] and values["momentum"] == 0:
        raise UserError("nesterov needs a momentum above 0; set nesterov=false")
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", values["device"]):
        given = values["device"]
        raise UserError(f"device must be auto, cpu, cuda or cuda:N (CPUs and NVIDIA GPUs are supported), got {given!r}")
    if not (values["model"] == "resnet9" or values["model"].startswith("timm:")):
        raise UserError(f"model must be resnet9 or timm:NAME, got {values['model']!r}")
    return values
