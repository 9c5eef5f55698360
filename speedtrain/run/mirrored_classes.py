"""What is said where a mirror may turn one class into another: before training by images, after it by answers."""

from collections.abc import Collection
from itertools import combinations

import numpy as np

from speedtrain.config import DATA_SETS, Config
from speedtrain.data import Images
from speedtrain.data.near_copies import mirrored_classes
from speedtrain.member_configs import member_configs

NAMED = 3
"""Pairs of classes that a message names."""
FEWEST_ANSWERS = 30
"""Answers from which two classes are compared."""
TOGETHER = 0.8
"""Share of two classes' images whose answer must be one of the two."""
CHANCE = 0.6
"""Share of right answers among these up to which they are taken for guesses."""


def notes_on_mirrors(config: Config, train: Images, without: Collection[str]) -> list[str]:
    """What is to be said about classes that are each other's mirror image, and about a mirror that was taken out.

    Args:
        config: of the run.
        train: the training images.
        without: the tricks that the user took out.
    """
    if "flip" in without:
        views = config.tricks.get("test_time_augmentation")
        how = "off" if views is None else f"in mode {views['mode']}"
        return [f"without flip: test-time augmentation shows no mirror images either (it is {how})"]
    if train.name in DATA_SETS or not _mirrors(config):
        return []
    pairs = mirrored_classes(train)
    if not pairs:
        return []
    return [f"warning: mirroring turns classes into each other ({_named(pairs)}): train --without flip"]


def notes_on_guesses(config: Config, labels: np.ndarray, predicted: np.ndarray, classes: Collection[str]) -> list[str]:
    """What is to be said about classes that are told from the others but not from each other, with flips on.

    Args:
        config: of the run.
        labels: int64 [N], of the test images.
        predicted: int64 [N], the answers.
        classes: names [K].
    """
    if not _mirrors(config):
        return []
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (labels, predicted), 1)

    def guessed(one: int, other: int) -> bool:
        answers = counts[np.ix_((one, other), (one, other))]
        among_all, among_both = counts[[one, other]].sum(), answers.sum()
        if among_both < FEWEST_ANSWERS or among_both < TOGETHER * among_all or 0 in answers:
            return False
        return bool(answers.trace() <= CHANCE * among_both)

    names = list(classes)
    pairs = [(names[one], names[other]) for one, other in combinations(range(len(names)), 2) if guessed(one, other)]
    if not pairs:
        return []
    what = "are told apart no better than by guessing"
    return [f"warning: {_named(pairs)} {what}: if one is the mirror image of the other, train --without flip"]


def _mirrors(config: Config) -> bool:
    """Whether a network is taught, or made, to answer an image and its mirror image alike."""
    networks = member_configs(config) or [config]
    return any({"flip", "mirror_equivariance"} & network.tricks.keys() for network in networks)


def _named(pairs: list[tuple[str, str]]) -> str:
    more = " and more" if len(pairs) > NAMED else ""
    return ", ".join(f"{one!r} and {other!r}" for one, other in pairs[:NAMED]) + more
