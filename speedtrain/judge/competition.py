"""A competition in one file: `competition.yaml` is read and checked here, before anything is run.

The keys, with their meanings and defaults, are the fields of the classes below. `schema()` gives them as a JSON schema,
and `template()` as a file to begin with.
"""

import datetime
import math
import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml

from speedtrain.checked_types import checked_types, nearest
from speedtrain.data.photograph import Fit
from speedtrain.errors import UserError
from speedtrain.judge.settings import Kind, Score, Settings, ZipRules, bytes_of, default_memory
from speedtrain.machine import available_cores

FILE = "competition.yaml"
"""Its usual name."""
MOST_SECONDS = 30 * 24 * 3600
MOST_ZIP = 2 << 30
"""Bytes of a zip: each is read as a whole."""


def key(meaning: str, default: Any = MISSING) -> Any:
    """A key of the file: what it means, and its value where it is left out."""
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class DataSection:
    """`data`, or one of `regimes`: images with labels. Paths are relative to the file."""

    train: str = key("training images: an .npz, a folder of class folders, or a .csv; entrants train on them")
    secret_test: str | None = key("test images that decide; no entrant gets them, nor their names", None)
    public_test: str | None = key("test images for entrants to practise on; they decide nothing", None)
    how_to_get: str | None = key("where entrants get the public images, in words; default: they are in the kit", None)
    near_copies: Literal["refused", "told"] = key(
        "what happens if secret test images nearly equal others; told is for simple drawings, which look alike anyway. "
        "Exact copies are always refused",
        "refused",
    )


@dataclass(frozen=True)
class LimitsSection:
    """`limits`: what every step of a submission may use."""

    memory: str | int | None = key("memory for all processes together; default: 12G, at most 3/4 of the machine", None)
    disk: str | int = key("disk space for all that is written", "2G")
    cpus: int | None = key("number of cores; default: all of the machine", None)
    gpus: int | None = key("number of GPUs; default: all of the machine", None)
    processes: int = key("processes and threads at the same time", 1024)


@dataclass(frozen=True)
class RulesSection:
    """`rules`: what a submission may hold."""

    pretrained_weights: bool = key("whether a submission may bring weights and data", False)
    largest_file: str | int = key("largest file in a zip", "1M")
    largest_zip: str | int = key("largest zip, also unpacked", "16M")
    licence: bool = key("whether its manifest must declare a licence", True)


@dataclass(frozen=True)
class ScoreSection:
    """`score`: what decides. `score: accuracy` is short for `score: {kind: accuracy}`."""

    kind: Literal["accuracy", "balanced_accuracy", "worst_class", "anytime", "time_to_target"] = key(
        "accuracy, balanced_accuracy or worst_class at the end of the budget; anytime, the area under the curve of "
        "accuracy over log(1 + t/t0); or time_to_target, the seconds until an accuracy is reached for good",
        "accuracy",
    )
    t0: float | None = key("seconds; below it, time counts nearly linearly; default: a twentieth of the budget", None)
    target: float | None = key("accuracy to be reached, between 0 and 1; for time_to_target", None)
    copies: int = key("instants at which the judge copies the weights of a run, for anytime and time_to_target", 20)


@dataclass(frozen=True)
class DatesSection:
    """`dates`: for the page of rules; the judge does not look at them."""

    opens: datetime.date | None = key("first day", None)  # noqa: RUF009 (a frozen field)
    closes: datetime.date | None = key("last day", None)  # noqa: RUF009


@dataclass(frozen=True)
class CompetitionFile:
    """The whole file."""

    name: str = key("name of the competition")
    description: str = key("what it is about, in a few sentences", "")
    budget: float = key("seconds of each training, from the start of its process to its kill", 600.0)
    test_budget: float | None = key(
        "seconds for predicting the test images, enough to predict and too few to train; default: 20 and 1 per 100 "
        "images, rounded up to half minutes",
        None,
    )
    runs: int = key("runs of each submission", 5)
    side: int | Literal["auto"] = key("pixels a side of all images; auto: by the size of the training images", 32)
    fit: Literal["crop", "pad", "squash"] = key("what becomes of images that are not square", "crop")
    drift: float = key("before a run, the judge waits while the machine's speed is off by more than this part", 0.15)


SECTIONS: dict[str, type] = {
    "data": DataSection,
    "limits": LimitsSection,
    "rules": RulesSection,
    "score": ScoreSection,
    "dates": DatesSection,
}


@dataclass(frozen=True)
class Regime:
    """One training set of a competition, with its test sets.

    Attributes:
        name: its name, of letters, digits and hyphens; empty where there is only one.
        train, secret_test, public_test: paths; None for what is not given.
        how_to_get: where entrants get the images; None if they are in the kit.
        near_copies: whether near-copies among the secret test images are refused, or told.
    """

    name: str
    train: Path
    secret_test: Path | None
    public_test: Path | None
    how_to_get: str | None = None
    near_copies: str = "refused"


@dataclass(frozen=True)
class Competition:
    """What is judged, and how.

    Attributes:
        name, description: for people.
        settings: the rules of the judging. `test_budget` is not a number until the images are known, where the file
            does not give it.
        regimes: the training sets, each with its test set.
        side: pixels a side of all images; None for the natural side of each training set.
        fit: what becomes of images that are not square.
        opens, closes: dates for the page of rules.
    """

    name: str
    description: str
    settings: Settings
    regimes: tuple[Regime, ...]
    side: int | None = 32
    fit: Fit = "crop"
    opens: datetime.date | None = None
    closes: datetime.date | None = None

    @property
    def secret(self) -> dict[str, Path]:
        """Name → path that no submission may read."""
        found: dict[str, Path] = {}
        for regime in self.regimes:
            of = f" of {regime.name}" if regime.name else ""
            found[f"train{of}"] = regime.train
            if regime.secret_test is not None:
                found[f"secret_test{of}"] = regime.secret_test
        return found


def read_competition(path: Path, sandbox: Kind = "bwrap") -> Competition:
    """Reads and checks a file. No image is read.

    Args:
        path: the file.
        sandbox: how submissions are confined.

    Raises:
        UserError: the file cannot be read, or a key is missing, unknown or wrong.
    """
    path = path / FILE if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"{path}: cannot be read ({reason})") from None
    try:
        given = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # impossible dates and endless numbers among them
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())[:300]})") from None
    if not isinstance(given, Mapping):
        raise UserError(f"{path}: must hold keys and values; python -m speedtrain competition new writes an example")
    try:
        return _competition(given, path.parent, sandbox)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.YAMLError(f"the key {twice} is given twice")
        return super().construct_mapping(node, deep)


def _competition(given: Mapping[str, Any], folder: Path, sandbox: Kind) -> Competition:
    top = [entry.name for entry in fields(CompetitionFile)]
    _refuse_unknown(given, (*top, *SECTIONS, "regimes"), "")
    whole = _section(CompetitionFile, {name: given[name] for name in top if name in given}, "")
    sections = {name: _given_section(name, given) for name in ("limits", "rules", "score", "dates")}
    for name, most in (("budget", MOST_SECONDS), ("test_budget", MOST_SECONDS), ("runs", 1000), ("drift", 1e9)):
        if whole[name] is not None:
            _between(whole[name], name, 0, most)
    for name in ("name", "description"):
        try:
            whole[name].encode()
        except UnicodeEncodeError:
            raise UserError(f"{name} holds characters that no file can hold") from None
    if not whole["name"].strip():
        raise UserError("name is empty: give the name of the competition")
    if whole["side"] != "auto":
        _between(whole["side"], "side", 7, 1024)
    dates = sections["dates"]
    if dates["opens"] and dates["closes"] and dates["closes"] < dates["opens"]:
        raise UserError(f"dates.closes ({dates['closes']}) is before dates.opens ({dates['opens']})")
    return Competition(
        whole["name"],
        whole["description"],
        _settings(whole, sections, sandbox),
        _regimes(given, folder),
        None if whole["side"] == "auto" else whole["side"],
        whole["fit"],
        dates["opens"],
        dates["closes"],
    )


def _settings(whole: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]], sandbox: Kind) -> Settings:
    limits, rules = sections["limits"], sections["rules"]
    for name in ("cpus", "processes"):
        if limits[name] is not None:
            _between(limits[name], f"limits.{name}", 0, 1 << 20)
    if limits["gpus"] is not None:
        _between(limits["gpus"], "limits.gpus", -1, 1024)
    return Settings(
        budget=whole["budget"],
        test_budget=math.nan if whole["test_budget"] is None else whole["test_budget"],
        runs=whole["runs"],
        memory=bytes_of("limits.memory", str(limits["memory"])) if limits["memory"] else default_memory(),
        disk=bytes_of("limits.disk", str(limits["disk"])),
        processes=limits["processes"],
        cpus=limits["cpus"] or available_cores(),
        gpus=limits["gpus"],
        sandbox=sandbox,
        drift=whole["drift"],
        score=_score(sections["score"], whole["budget"]),
        rules=ZipRules(
            rules["pretrained_weights"],
            bytes_of("rules.largest_file", str(rules["largest_file"]), 1 << 10, MOST_ZIP),
            bytes_of("rules.largest_zip", str(rules["largest_zip"]), 1 << 10, MOST_ZIP),
            rules["licence"],
        ),
    )


def _score(given: Mapping[str, Any], budget: float) -> Score:
    kind, target = given["kind"], given["target"]
    if kind == "time_to_target" and target is None:
        raise UserError("score.target is missing: the accuracy to be reached, between 0 and 1")
    if kind != "time_to_target" and target is not None:
        raise UserError(f"score.target belongs to time_to_target, not to {kind}: leave it out")
    if target is not None and not 0 < target < 1:
        raise UserError(f"score.target must be an accuracy between 0 and 1, got {target:g}")
    if given["t0"] is not None:
        _between(given["t0"], "score.t0", 1e-3, MOST_SECONDS)
        if kind not in ("anytime", "time_to_target"):
            raise UserError(f"score.t0 belongs to anytime and time_to_target, not to {kind}: leave it out")
    if not 2 <= given["copies"] <= 1000:
        raise UserError(f"score.copies must be a whole number from 2 to 1000, got {given['copies']}")
    return Score(kind, given["t0"] or budget / 20, target, given["copies"])


def _regimes(given: Mapping[str, Any], folder: Path) -> tuple[Regime, ...]:
    """The training sets: `data`, or several under `regimes`."""
    if ("data" in given) == ("regimes" in given):
        both = "both are given" if "data" in given else "both are missing"
        raise UserError(f"give data (one training set) or regimes (several): {both}")
    if "data" in given:
        return (_regime("", _mapping(given["data"], "data"), folder, "data."),)
    regimes = given["regimes"]
    if not isinstance(regimes, list) or len(regimes) < 2:
        raise UserError("regimes must be a list of two or more, each with a name, train and secret_test")
    found: list[Regime] = []
    for number, entry in enumerate(regimes, 1):
        where = f"regimes[{number}]"
        entry = dict(_mapping(entry, where))
        name = entry.pop("name", None)
        if not isinstance(name, str) or not re.fullmatch("[A-Za-z0-9][A-Za-z0-9-]{0,39}", name):
            raise UserError(f"{where}.name must be a name of at most 40 letters, digits and hyphens, got {name!r}")
        if name.lower() in [other.name.lower() for other in found]:
            raise UserError(f"{where}.name: {name} is the name of another regime too")
        found.append(_regime(name, entry, folder, f"{where}."))
    return tuple(found)


def _regime(name: str, given: Mapping[str, Any], folder: Path, prefix: str) -> Regime:
    _refuse_unknown(given, [entry.name for entry in fields(DataSection)], prefix)
    values = _section(DataSection, given, prefix)
    paths: dict[str, Path | None] = {}
    for role in ("train", "secret_test", "public_test"):
        paths[role] = None if values[role] is None else folder / values[role]
        found = paths[role]
        if found is not None and (not values[role] or not os.path.exists(found)):
            raise UserError(f"{prefix}{role}: {str(found)[:300]} does not exist")
    assert paths["train"] is not None
    return Regime(
        name, paths["train"], paths["secret_test"], paths["public_test"], values["how_to_get"], values["near_copies"]
    )


def _given_section(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    section = given.get(name)
    if name == "score" and isinstance(section, str):
        section = {"kind": section}
    mapping = {} if section is None else _mapping(section, name)
    _refuse_unknown(mapping, [entry.name for entry in fields(SECTIONS[name])], f"{name}.")
    if name == "dates":  # YAML reads a date as one; text in its place is none
        for role, value in mapping.items():
            if value is not None and type(value) is not datetime.date:
                raise UserError(f"dates.{role} must be a date like 2027-01-31, got {value!r}")
        return {entry.name: mapping.get(entry.name) for entry in fields(DatesSection)}
    if name == "score" and "kind" in mapping:
        kinds = get_args(get_type_hints(ScoreSection)["kind"])
        if mapping["kind"] not in kinds:
            raise UserError(f"score.kind: no score {mapping['kind']!r}{nearest(str(mapping['kind']), kinds)}")
    return _section(SECTIONS[name], mapping, f"{name}.")


def _section(kind: type, given: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    for entry in fields(kind):
        if entry.default is MISSING and entry.name not in given:
            raise UserError(f"{prefix}{entry.name} is missing: {entry.metadata['meaning']}")
    return checked_types(kind, given, prefix)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where} must hold keys and values, got {value!r}")
    return value


def _refuse_unknown(given: Mapping[str, Any], known: Any, prefix: str) -> None:
    for name in given:
        if name not in known:
            raise UserError(f"no key {prefix}{name}{nearest(str(name), known)}")


def _between(value: float, name: str, above: float, most: float) -> None:
    if not above < value <= most:
        raise UserError(f"{name} must be a number above {above:g}, at most {most:,.10g}, got {str(value)[:40]}")
