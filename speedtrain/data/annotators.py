"""Several labels an image: how far annotators agree, and what their labels become for training."""

import warnings
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np

from speedtrain.data.source import Images, data_error
from speedtrain.errors import UserError

DEFAULT: Final = "separate"
WAYS = (DEFAULT, "soft", "majority", "em", "first")
"""What several labels may become; the number of an annotator is another way."""
NO_LABEL = -1
"""Stands in `votes` where an annotator gave none."""
MOST_ROUNDS, CONVERGED, SMALLEST = 200, 1e-6, 1e-12
"""Of the expectation maximisation: its rounds, the change at which it ends, and what stands for a probability of 0."""


@dataclass(frozen=True)
class Agreement:
    """How far the annotators of a set agree.

    Attributes:
        annotators: how many there are.
        unanimous: share of the images with several labels on which all are the same; None where no image has several.
        pairs: share of the pairs of labels of an image that are the same; None likewise.
        noise: share of wrong labels that this implies, if errors are independent and go to any other class alike; None
            likewise.
        with_majority: of each annotator, the share of their labels that agrees with the majority; None without labels.
        by_chance: whether they agree no more than by chance.
    """

    annotators: int
    unanimous: float | None
    pairs: float | None
    noise: float | None
    with_majority: tuple[float | None, ...]
    by_chance: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def in_words(self) -> str:
        """One line for the user."""
        if self.unanimous is None:
            return f"{self.annotators} annotators; no image has several labels, so nothing tells how many are wrong"
        share = f"{self.unanimous:.1%} of the images that have several labels"
        agree = f"{self.annotators} annotators; all agree on {share}"
        if self.by_chance:
            return f"{agree}, no more than by chance: are these labels of one question?"
        wrong = f"{self.noise:.0%} of the labels are wrong; errors that they share do not show"
        return f"{agree}. If their errors are independent, {wrong}"


def check_votes(labels: np.ndarray, where: str, chosen: bool) -> None:
    """Refuses labels int [N, A] that are not those of A annotators, or lack what training needs.

    Args:
        chosen: whether somebody chose what they become; otherwise an annotator without labels is refused.

    Raises:
        UserError: they are so.
    """
    if labels.min() < NO_LABEL:
        raise data_error(where, f"label {labels.min()} is negative: number the classes from 0; -1 is for no label")
    given = labels >= 0
    if not given.any(axis=1).all():
        row = int((~given.any(axis=1)).argmax())
        raise data_error(where, f"image {row} has no label from any annotator: leave it out, or label it")
    if not chosen and not given.any(axis=0).all():
        annotator = int((~given.any(axis=0)).argmax()) + 1
        raise data_error(where, f"annotator {annotator} gave no label: leave the column out, or choose by --labels")


def look_like_classes(labels: np.ndarray) -> bool:
    """Whether labels int [N, A] of 0 and 1 may be flags of A classes instead of the labels of A annotators."""
    if labels.min() < 0 or labels.max() > 1:
        return False
    return labels.shape[1] > 2 or bool((labels.sum(axis=1) == 1).all())


def support(votes: np.ndarray) -> np.ndarray:
    """How many annotators of the image gave the same label, int64 [N, A]; 0 where none was given.

    Args:
        votes: int64 [N, A], -1 where an annotator gave none.
    """
    same = np.stack([(votes == column[:, None]).sum(axis=1) for column in votes.T], axis=1)
    return np.where(votes >= 0, same, 0)


def majority(votes: np.ndarray, seed: int = 0) -> np.ndarray:
    """The class that most annotators gave, int64 [N]; of equals one by the seed.

    Args:
        votes: int64 [N, A], -1 where an annotator gave none.
        seed: of the draw. Default: 0.
    """
    drawn = support(votes) + np.random.default_rng(seed).uniform(0, 0.5, votes.shape)
    return votes[np.arange(len(votes)), drawn.argmax(axis=1)]


def vote_counts(votes: np.ndarray, num_classes: int) -> np.ndarray:
    """How many annotators gave each class, float32 [N, K]."""
    counts = np.zeros((len(votes), num_classes), np.float32)
    images, annotators = np.nonzero(votes >= 0)
    np.add.at(counts, (images, votes[images, annotators]), 1)
    return counts


def dawid_skene(votes: np.ndarray) -> np.ndarray:
    """The likeliest true class by Dawid and Skene's model of annotators (1979), int64 [N], from crowd-kit.

    Args:
        votes: int64 [N, A], -1 where an annotator gave none.

    Raises:
        UserError: crowd-kit is not installed.
    """
    try:
        from crowdkit.aggregation.classification.dawid_skene import DawidSkene
    except ImportError as error:
        raise UserError(f"--labels em needs crowd-kit ({error}): pip install 'speedtrain[labels]'") from None
    import pandas as pd

    images, annotators = np.nonzero(votes >= 0)
    table = pd.DataFrame({"task": images, "worker": annotators, "label": votes[images, annotators]})
    with warnings.catch_warnings(action="ignore"):  # on what pandas will change
        labels = DawidSkene(n_iter=100, tol=1e-5).fit_predict(table)
    return labels.sort_index().to_numpy(np.int64)


def estimate_transition(votes: np.ndarray, num_classes: int) -> np.ndarray:
    """How labels were made wrong, from images with several: T[i, j] is the probability that one of class i got label j.

    The model is Dawid and Skene's (1979) with one matrix for all annotators, fitted by expectation maximisation from
    the shares of the votes. It takes errors for independent, so those that people share stay hidden. A class that no
    image has keeps its labels.

    Args:
        votes: int64 [N, A], -1 where an annotator gave none.

    Returns:
        float64 [K, K].
    """
    counts = vote_counts(votes, num_classes).astype(np.float64)
    counts = counts[counts.sum(axis=1) > 1]  # one label alone says nothing about the noise
    chances = counts / counts.sum(axis=1, keepdims=True)  # of each true class
    transition = np.eye(num_classes)
    for _ in range(MOST_ROUNDS):
        before, sizes = transition, chances.sum(axis=0)
        transition = chances.T @ counts
        totals = transition.sum(axis=1, keepdims=True)
        transition = np.where(totals > 0, transition / np.maximum(totals, SMALLEST), np.eye(num_classes))
        if np.abs(transition - before).max() < CONVERGED:
            break
        logarithms = np.log(np.maximum(sizes, SMALLEST)) + counts @ np.log(np.maximum(transition, SMALLEST)).T
        chances = np.exp(logarithms - logarithms.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
    return transition


def measure_agreement(votes: np.ndarray, num_classes: int, labels: np.ndarray) -> Agreement:
    """How far annotators agree.

    With a share p of wrong labels, each as often any of the other K − 1 classes, two labels of an image agree with
    probability (1 − p)² + p² / (K − 1). The share is the smaller p for which that is what was seen.

    Args:
        votes: int64 [N, A], -1 where an annotator gave none.
        labels: their majority, int64 [N].
    """
    alike, given = support(votes), (votes >= 0).sum(axis=1)
    several = given > 1
    own = tuple(_share(column == labels, column >= 0) for column in votes.T)
    if not several.any():
        return Agreement(votes.shape[1], None, None, None, own, False)
    agree = float(np.maximum(alike - 1, 0).sum() / (given * (given - 1)).sum())
    unanimous = float((alike.max(axis=1) == given)[several].mean())
    above_chance = (num_classes * agree - 1) / (num_classes - 1)
    noise = (1 - np.sqrt(max(0.0, above_chance))) * (num_classes - 1) / num_classes
    return Agreement(votes.shape[1], unanimous, agree, float(noise), own, above_chance <= 0)


def _share(hits: np.ndarray, among: np.ndarray) -> float | None:
    return float(hits[among].mean()) if among.any() else None


def labels_for_training(train: Images, way: str | int | None, seed: int) -> tuple[Images, list[str]]:
    """Training images whose annotators' labels have become what the loss takes, and notes.

    - separate: targets of each class's votes. Where the loss is linear in the target, it is the sum over the annotators
      of the loss of each one's label, in units of an image with the mean number of labels.
    - soft: targets of each class's share of the votes. Where all annotators labelled an image, the same as separate.
    - majority, em: one label; see `majority` and `dawid_skene`.
    - first: the label of the first annotator, in their order, who gave one.
    - a number from 1: the labels of one annotator; other images are left out.

    Args:
        train: images with `votes`.
        way: one of these; None for `DEFAULT`.
        seed: of the majority's ties.

    Raises:
        UserError: there is no such annotator, a class would have no image, or crowd-kit is not installed.
    """
    assert train.votes is not None
    votes, notes = train.votes, []
    if way in (None, DEFAULT, "soft"):
        counts = vote_counts(votes, len(train.classes))
        given = counts.sum(axis=1, keepdims=True)
        shares = counts / (given if way == "soft" else given.mean())
        return replace(train, targets=shares), []
    if way == "majority":
        labels = majority(votes, seed)
    elif way == "em":
        labels = dawid_skene(votes)
    elif way == "first":
        labels = votes[np.arange(len(votes)), (votes >= 0).argmax(axis=1)]
    else:
        count = votes.shape[1]
        if not 1 <= int(way) <= count:
            raise data_error(f"--labels {way}", f"{train.name} has {count} annotators: give a number from 1 to {count}")
        chosen = votes[:, int(way) - 1] >= 0
        train, labels = train.subset(chosen), votes[chosen, int(way) - 1]
        if missing := int((~chosen).sum()):
            notes = [f"{train.name}: {missing} images without a label of annotator {way} are left out"]
    counts = np.bincount(labels, minlength=len(train.classes))
    if not counts.all():
        name = train.classes[int(counts.argmin())]
        raise data_error(f"--labels {way}", f"class {name!r} has no training image then: choose another way")
    return replace(train, labels=labels), notes


def agreement_with_annotators(predicted: np.ndarray, votes: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Share of the predicted classes int64 [N] that agree with each annotator (None without labels), and with `labels`,
    the majority's."""
    each = [_share(predicted == column, column >= 0) for column in votes.T]
    return {"each": each, "majority": float((predicted == labels).mean())}
