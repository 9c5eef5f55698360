"""Is a competition sound, and what does it cost? Reads the images, tries the sandbox, measures this machine."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from speedtrain.data import Data, Images, load_data
from speedtrain.data.near_copies import notes_on_near_copies
from speedtrain.data.splits import fingerprints
from speedtrain.errors import UserError
from speedtrain.judge import machine_speed, sandbox_check
from speedtrain.judge.competition import Competition, Regime, read_competition
from speedtrain.judge.settings import Kind, Settings, default_test_budget
from speedtrain.judge.turns import in_time

FEWEST_RUNS = 4
"""Runs per submission from which the test of Mann and Whitney can find a difference at all."""


def load_regime(competition: Competition, regime: Regime, test: Path) -> Data:
    """Training images of a regime, with one of its test sets.

    Raises:
        UserError: the images cannot be used, or have labels of several people.
    """
    data = load_data(regime.train, test, per_class="all", side=competition.side, fit=competition.fit)
    refuse_several_labels(data)
    return data


def refuse_several_labels(data: Data) -> None:
    """Raises UserError where an image has several labels."""
    for images in (data.train, data.test):
        if images.votes is not None:
            raise UserError(f"{images.name}: labels of several people; a contest needs one label an image")


def load_competition(path: Path, sandbox: Kind, report: Callable[[str], None]) -> tuple[Competition, dict[str, Data]]:
    """Reads a competition's file, and the training and secret test images of every regime.

    Every secret test set is compared with all training images and with all public test images.

    Args:
        path: the file, or its folder.
        sandbox: how submissions are confined.
        report: called with each line for a person.

    Returns:
        The competition, complete, and the images by the name of their regime.

    Raises:
        UserError: the file is wrong, images are missing or unusable, or secret test images are among the others.
    """
    competition = read_competition(path, sandbox)
    found: dict[str, Data] = {}
    known: dict[str, Images] = {}
    for regime in competition.regimes:
        where = f"{regime.name}: " if regime.name else ""
        if regime.secret_test is None:
            raise UserError(f"{where}secret_test is missing: this is the file for entrants, by which nobody is judged")
        found[regime.name] = load_regime(competition, regime, regime.secret_test)
        known[f"{where}train"] = found[regime.name].train
        if regime.public_test is not None:
            known[f"{where}public_test"] = load_regime(competition, regime, regime.public_test).test
    for regime in competition.regimes:
        secret = f"{regime.name}: secret_test" if regime.name else "secret_test"
        for role, images in known.items():
            near = _refuse_known(secret, found[regime.name].test, role, images)
            if near and regime.near_copies == "refused":
                raise UserError(f"{near}; remove them from one of the two, or set near_copies: told")
            if near:
                report(f"note: {near}")
    return with_test_budget(competition, found), found


def with_test_budget(competition: Competition, regimes: Mapping[str, Data]) -> Competition:
    """The competition with a time for predicting, by the largest test set, where its file gives none."""
    settings = competition.settings
    if math.isnan(settings.test_budget):
        seconds = max(default_test_budget(len(data.test.labels)) for data in regimes.values())
        settings = replace(settings, test_budget=seconds)
    return replace(competition, settings=settings)


def _refuse_known(where: str, secret: Images, role: str, known: Images) -> str | None:
    """Raises UserError where secret test images are among other images. Tells where they nearly are."""
    if known.images.shape[1:] != secret.images.shape[1:]:  # of another side, by itself
        return None
    theirs = set(fingerprints(known.images))
    same = [place for place, fingerprint in enumerate(fingerprints(secret.images)) if fingerprint in theirs]
    if same:
        raise UserError(
            f"{len(same)} of {len(secret.images)} images of {where} are in {role} too (the first is number {same[0]}): "
            "remove them from one of the two"
        )
    for note in notes_on_near_copies(known, secret):
        counted = note.partition(":")[0].replace("a training image", f"an image of {role}")
        return f"{where} and {role}: {counted}"
    return None


@dataclass(frozen=True)
class Price:
    """What a competition costs.

    Attributes:
        runs: all runs.
        seconds: of one machine, if every step takes its whole budget.
        most_copies: how often the weights of a run are scored beside those of its end.
    """

    runs: int
    seconds: float
    most_copies: int


def price(settings: Settings, num_regimes: int, entrants: int) -> Price:
    """The price of a competition of so many entrants."""
    most_copies = settings.score.copies - 1 if settings.score.over_time else 0
    runs = entrants * settings.runs * num_regimes
    per_run = settings.budget + (1 + most_copies) * settings.test_budget
    return Price(runs, runs * per_run, most_copies)


def check_competition(
    competition: Competition, regimes: Mapping[str, Data], folder: Path, entrants: int, report: Callable[[str], None]
) -> None:
    """Checks what can be checked before anybody is judged, and tells what was found.

    Args:
        competition, regimes: as `load_competition` gives them.
        folder: where a board would be, for the disk space.
        entrants: number of submissions that are expected.
        report: called with each line for a person.

    Raises:
        UserError: something does not hold.
    """
    settings = competition.settings
    for name, data in regimes.items():
        counts = np.bincount(data.train.labels)
        report(
            f"{name or 'data'}: {len(data.train.labels):,} training images of {len(data.train.classes)} classes "
            f"({counts.min()} to {counts.max()} each), {len(data.test.labels):,} secret test images, "
            f"{data.side} pixels a side"
        )
    settings.check(folder)
    sandbox_check.check(settings.sandbox, settings.limits(60), competition.secret)
    tried = sandbox_check.check_packages(settings.sandbox)
    report("sandbox: works, with every package that a submission may use")
    report(f"limits: {tried.in_words()}")
    if math.isfinite(settings.drift):
        reference, variation = machine_speed.reference_speed(settings.limits(60).cpus)
        steady = "" if variation <= settings.drift else ": more than drift allows; something else is running on it"
        report(f"machine: {reference:.0f} GFLOP/s on {settings.cpus} cores, varying by {variation:.0%}{steady}")
    if settings.score.kind == "time_to_target" and settings.runs < FEWEST_RUNS:
        report(f"note: with fewer than {FEWEST_RUNS} runs, no difference of times is significant: all share rank 1")
    cost = price(settings, len(regimes), entrants)
    copies = f" and up to {cost.most_copies} copies" if cost.most_copies else ""
    on = f" on each of {len(regimes)} training sets" if len(regimes) > 1 else ""
    report(
        f"price: {entrants} entrants × {settings.runs} runs{on}: {in_time(cost.seconds)} on this machine, "
        f"{in_time(cost.seconds / 4)} on 4 such (training {settings.budget:g} s, predicting the end{copies} "
        f"{settings.test_budget:g} s each, if all take their time)"
    )
