"""Several labels an image: aggregation against counts of our own, agreement against planted errors, bad input."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from labelled_images import error_of, save_npz, some_images

from speedtrain.ablation.sweep_folder import write_images
from speedtrain.ablation.sweep_labels import load_for_sweep, with_labels
from speedtrain.config import resolve
from speedtrain.data import load_data
from speedtrain.data.annotators import (
    agreement_with_annotators,
    dawid_skene,
    estimate_transition,
    majority,
    measure_agreement,
)
from speedtrain.data.configured import load_given
from speedtrain.errors import UserError
from speedtrain.run.checks_before_start import check_network
from speedtrain.run.estimated_noise import estimate_noise

IMAGES = some_images(60)
CLASSES = 3


def some_votes(seed: int = 0) -> np.ndarray:
    """Three annotators of 60 images and three classes; the first is right in nine of ten, the others in six of ten.
    The last gave every other label."""
    generator = np.random.default_rng(seed)
    true = np.arange(60) % CLASSES
    votes = np.stack([true, true, true], axis=1)
    for annotator, share in enumerate((0.1, 0.4, 0.4)):
        wrong = generator.random(60) < share
        votes[wrong, annotator] = (true[wrong] + generator.integers(1, CLASSES, wrong.sum())) % CLASSES
    votes[::2, 2] = -1
    return votes


@pytest.fixture
def voted(tmp_path: Path) -> Path:
    return save_npz(tmp_path / "a.npz", images=IMAGES, labels=some_votes())


def places(images: np.ndarray) -> list[int]:
    """Which of `IMAGES` these are."""
    known = {image.tobytes(): number for number, image in enumerate(IMAGES)}
    return [known[image.tobytes()] for image in images]


@pytest.mark.parametrize("way", ["separate", "soft", None])
def test_shares_of_the_votes(voted: Path, way: str | None) -> None:
    data = load_data(voted, labels=way)
    votes = some_votes()[places(data.train.images)]
    mean = (votes >= 0).sum(axis=1).mean()
    assert data.train.targets is not None
    for row, target in zip(votes, data.train.targets, strict=True):
        given = Counter(row[row >= 0].tolist())
        whole = len(row[row >= 0]) if way == "soft" else mean
        np.testing.assert_allclose(target, [given[label] / whole for label in range(CLASSES)], rtol=1e-6)
    assert data.labels == (way or "separate")


@pytest.mark.parametrize("way", ["majority", "first", 1, 3])
def test_one_label_of_several(voted: Path, way: str | int) -> None:
    data = load_data(voted, labels=way, seed=4)
    assert data.train.targets is None
    votes = some_votes()[places(data.train.images)]
    for row, label in zip(votes, data.train.labels.tolist(), strict=True):
        given = Counter(row[row >= 0].tolist())
        if way == "majority":
            assert given[label] == max(given.values())
        else:
            assert label == (row[row >= 0][0] if way == "first" else row[int(way) - 1])
    left_out = [note for note in data.notes if "left out" in note]
    assert len(left_out) == (way == 3)


def test_the_seed_draws_the_ties_of_a_majority(voted: Path) -> None:
    labels = [load_data(voted, labels="majority", seed=seed).train.labels.tolist() for seed in (1, 1, 2)]
    assert labels[0] == labels[1] != labels[2]


def test_dawid_and_skene_trusts_whom_it_may() -> None:
    """One good annotator against two who are nearly always wrong in the same way: the majority follows the two."""
    generator = np.random.default_rng(0)
    true = generator.integers(0, 4, 2000)
    votes = np.stack([true, true, true, true], axis=1)
    for annotator, share in enumerate((0.05, 0.05, 0.6, 0.6)):
        wrong = generator.random(2000) < share
        votes[wrong, annotator] = generator.integers(0, 4, wrong.sum())
    errors = [(labels != true).mean() for labels in (dawid_skene(votes), majority(votes))]
    assert errors[0] < 0.7 * errors[1]


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("classes", [2, 10])
def test_agreement_implies_the_noise_that_was_planted(noise: float, classes: int) -> None:
    generator = np.random.default_rng(1)
    true = generator.integers(0, classes, 20_000)
    noise = noise * (1 - 1 / classes)  # below chance, from which no noise can be told
    votes = np.repeat(true[:, None], 3, axis=1)
    wrong = generator.random(votes.shape) < noise
    votes[wrong] = (votes[wrong] + generator.integers(1, classes, wrong.sum())) % classes
    votes[generator.random(votes.shape) < 0.2] = -1
    votes = votes[(votes >= 0).any(axis=1)]
    agreement = measure_agreement(votes, classes, majority(votes))
    assert agreement.noise == pytest.approx(noise, abs=0.01 if noise < 0.4 else 0.03)
    complete = votes[(votes >= 0).sum(axis=1) > 1]
    alike = [len(set(row[row >= 0].tolist())) == 1 for row in complete]
    assert agreement.unanimous == pytest.approx(np.mean(alike))


def test_a_holdout_is_scored_by_the_majority_and_keeps_the_votes(voted: Path) -> None:
    data = load_data(voted, labels=1)
    assert data.test.votes is not None
    np.testing.assert_array_equal(data.test.votes, some_votes()[places(data.test.images)])
    np.testing.assert_array_equal(data.test.labels, majority(some_votes())[places(data.test.images)])
    assert any("scored by the majority" in note for note in data.notes)
    assert any("3 annotators; all agree on" in note for note in data.notes)
    assert not data.train.like_cifar10


def test_limits_per_class_keep_votes_beside_their_images(voted: Path) -> None:
    train = load_data(voted, per_class=5).train
    np.testing.assert_array_equal(train.votes, some_votes()[places(train.images)])


def spoilt(row: object, column: object, value: int) -> np.ndarray:
    votes = some_votes()
    votes[row, column] = value
    return votes


@pytest.mark.parametrize(
    ("labels", "way", "words"),
    [
        (spoilt(slice(None), 1, -1), None, "annotator 2 gave no label: leave the column out"),
        (spoilt(slice(None), 1, -1), 2, "--labels 2: class '0' has no training image then"),
        (some_votes(), "mean", "--labels: 'mean' given: give separate, soft, majority, em, first, or the number"),
        (some_votes(), True, "--labels: True given"),
        (some_votes()[:50], None, "50 rows of labels for 60 images"),
        (np.where(some_votes() < 0, np.nan, some_votes()), None, "labels hold NaN"),
        (spoilt(3, 1, 2**40), None, "is the majority's label of no image"),
        (np.eye(2, dtype=int)[np.arange(60) % 2], None, "labels are one-hot, of shape (60, 2): give labels.argmax(1)"),
        (np.eye(3)[np.arange(60) % 3], None, "labels are one-hot, of shape (60, 3): give labels.argmax(1)"),
        (1 - np.eye(3, dtype=int)[np.arange(60) % 3], None, "one class per image; images of several classes at once"),
        (spoilt(4, slice(None), -1), None, "image 4 has no label from any annotator"),
        (spoilt(0, 0, -2), None, "label -2 is negative"),
        (some_votes(), 7, "--labels 7: a.npz has 3 annotators: give a number from 1 to 3"),
        (some_votes(), 0, "give a number from 1 to 3"),
        (some_votes()[:, 0], "em", "--labels: a.npz has one label an image"),
        (some_votes()[:, :, None], None, "labels have shape (60, 3, 1)"),
        (some_votes() + 0.5, None, "labels are float64, not whole numbers"),
        (np.eye(3, dtype=int)[np.arange(60) % 3], None, "if these 0 and 1 are from annotators, choose by --labels"),
    ],
)
def test_bad_labels(tmp_path: Path, labels: np.ndarray, way: str | int | None, words: str) -> None:
    path = save_npz(tmp_path / "a.npz", images=IMAGES, labels=labels)
    assert words in error_of(load_data, path, labels=way)


def test_labels_without_an_image_in_common_tell_nothing(tmp_path: Path) -> None:
    votes = np.full((60, 2), -1)
    votes[:30, 0], votes[30:, 1] = np.arange(30) % CLASSES, np.arange(30) % CLASSES
    data = load_data(save_npz(tmp_path / "a.npz", images=IMAGES, labels=votes))
    assert data.annotators is not None
    assert data.annotators.noise is None
    assert "no image has several labels" in " ".join(data.notes)


def test_columns_that_are_no_labels_of_one_question_are_noticed(tmp_path: Path) -> None:
    coarse_and_fine = np.stack([np.arange(60) % 2, 2 + np.arange(60) % 2], axis=1)
    data = load_data(save_npz(tmp_path / "a.npz", images=IMAGES, labels=coarse_and_fine), labels="separate")
    assert "no more than by chance: are these labels of one question?" in " ".join(data.notes)


def test_a_limit_per_class_counts_images_that_are_trained_on(voted: Path) -> None:
    train = load_data(voted, per_class=5, labels=3).train
    assert np.bincount(train.labels).tolist() == [5, 5, 5]


def test_one_expert_may_label_the_test_images(tmp_path: Path, voted: Path) -> None:
    expert = np.full((60, 3), -1)
    expert[:, 0] = np.arange(60) % CLASSES
    test = save_npz(tmp_path / "t.npz", images=some_images(60, seed=9), labels=expert)
    np.testing.assert_array_equal(load_data(voted, test).test.labels, np.arange(60) % CLASSES)
    one_label = save_npz(tmp_path / "b.npz", images=IMAGES, labels=np.arange(60) % 2)
    two_classes = save_npz(tmp_path / "c.npz", images=some_images(60, seed=9), labels=np.minimum(abs(some_votes()), 1))
    assert "choose by --labels" in error_of(load_data, one_label, two_classes)
    assert load_data(one_label, two_classes, labels="majority").test.votes is not None


def test_predictions_agree_with_annotators_by_count(voted: Path) -> None:
    test = load_data(voted).test
    assert test.votes is not None
    predicted = (test.labels + (np.arange(len(test.labels)) % 4 == 0)) % CLASSES
    agreement = agreement_with_annotators(predicted, test.votes, test.labels)
    for column, share in zip(test.votes.T, agreement["each"], strict=True):
        pairs = [(a, b) for a, b in zip(predicted, column, strict=True) if b >= 0]
        assert share == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))
    assert agreement["majority"] == pytest.approx(0.75, abs=0.05)


def test_every_variant_of_a_sweep_gets_every_annotator(tmp_path: Path) -> None:
    votes = np.minimum(np.abs(some_votes()), 1)  # two classes
    path = save_npz(tmp_path / "a.npz", images=IMAGES, labels=votes)
    configs = [resolve(budget=9, data=str(path), labels=way) for way in (3, "separate", None)]
    loaded = load_for_sweep(configs, configs[0], None, None)
    write_images(tmp_path / "sweep", loaded)
    for config in (with_labels(config, loaded) for config in configs):
        prepared = config.for_prepared(tmp_path / "sweep/train.npz", tmp_path / "sweep/test.npz")
        trial = load_given(prepared, None, None)
        assert trial.labels == (config.labels or "separate")
        np.testing.assert_array_equal(trial.train.votes, votes[places(trial.train.images)])
        np.testing.assert_array_equal(trial.test.labels, loaded.test.labels)
    assert not isinstance(loaded.train.images, np.memmap)
    with pytest.raises(UserError, match=r"--labels 7: .* give a number from 1 to 3"):
        load_for_sweep([*configs, resolve(budget=9, data=str(path), labels=7)], configs[0], None, None)


def test_annotators_of_two_classes_say_that_they_are(tmp_path: Path) -> None:
    votes = np.minimum(np.abs(some_votes()), 1)
    path = save_npz(tmp_path / "a.npz", images=IMAGES, labels=votes)
    assert "choose by --labels" in error_of(load_data, path)
    assert load_data(path, labels="majority").annotators is not None


def test_the_noise_that_was_planted_is_estimated_from_three_labels() -> None:
    generator = np.random.default_rng(0)
    planted = np.array([[0.7, 0.3, 0.0, 0.0], [0.1, 0.6, 0.2, 0.1], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    true = generator.integers(0, 3, 6000)  # no image is of the last class
    votes = np.stack([(generator.random((6000, 1)) > planted[true].cumsum(axis=1)).sum(axis=1) for _ in range(3)], 1)
    votes[::3, 2] = votes[::5, 1] = -1  # not everybody labelled everything, and some images have one label
    estimated = estimate_transition(votes, 4)
    np.testing.assert_allclose(estimated.sum(axis=1), 1)
    np.testing.assert_allclose(estimated[:3], planted[:3], atol=0.04)
    agreed = np.repeat(np.arange(4)[:, None], 3, axis=1)
    np.testing.assert_allclose(estimate_transition(agreed, 4), np.eye(4))


def test_a_round_of_the_estimate_is_that_of_the_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the shares of the votes to T, to the chances of each class, and to T again: one image at a time."""
    monkeypatch.setattr("speedtrain.data.annotators.MOST_ROUNDS", 2)
    votes = some_votes()
    given = [[label for label in row if label >= 0] for row in votes.tolist()]
    given = [row for row in given if len(row) > 1]

    def matrix(chances: list[list[float]]) -> list[list[float]]:
        rows = [[0.0] * CLASSES for _ in range(CLASSES)]
        for labels, chance in zip(given, chances, strict=True):
            for label in labels:
                for i in range(CLASSES):
                    rows[i][label] += chance[i]
        return [[value / sum(row) for value in row] for row in rows]

    shares = [[labels.count(i) / len(labels) for i in range(CLASSES)] for labels in given]
    transition, prior = matrix(shares), np.sum(shares, axis=0)
    chances = []
    for labels in given:
        joint = [prior[i] * np.prod([transition[i][label] for label in labels]) for i in range(CLASSES)]
        chances.append([float(value / sum(joint)) for value in joint])
    np.testing.assert_allclose(estimate_transition(votes, CLASSES), matrix(chances), rtol=1e-9)


def test_forward_correction_learns_the_noise_from_the_annotators(voted: Path) -> None:
    config = resolve(budget=60, with_tricks=["forward_correction"], settings={"forward_correction.noise": "annotators"})
    train = load_data(voted).train
    estimate_noise(config, train)
    estimated = estimate_transition(some_votes()[places(train.images)], CLASSES)
    np.testing.assert_allclose(config.tricks["forward_correction"]["matrix"], estimated)
    for way in ("majority", "em"):
        with pytest.raises(UserError, match=f"not the noise of --labels {way}"):
            estimate_noise(replace(config, labels=way), train)
    one = save_npz(voted.parent / "one.npz", images=IMAGES, labels=np.arange(60) % CLASSES)
    with pytest.raises(UserError, match="needs images with several labels, and one"):
        estimate_noise(config, load_data(one).train)
    config.tricks["forward_correction"]["noise"] = "confident"
    with pytest.raises(UserError, match="use annotators with --labels separate"):
        estimate_noise(config, train)
    estimate_noise(replace(config, labels="majority"), train)  # as a sweep loads them


def test_an_estimate_stays_with_its_run(voted: Path) -> None:
    """Copies of a configuration share their tricks, and a recorded matrix may be of other labels."""
    config = resolve(budget=60, with_tricks=["forward_correction"], settings={"forward_correction.noise": "annotators"})
    config.device = "cpu"
    train, copied = load_data(voted).train, replace(config)
    check_network(config, train)
    estimate_noise(copied, train)
    assert config.tricks["forward_correction"]["matrix"] == ()
    estimated = copied.tricks["forward_correction"]["matrix"]
    copied.tricks["forward_correction"]["matrix"] = other = [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    estimate_noise(copied, train, keep=True)
    assert copied.tricks["forward_correction"]["matrix"] == other
    estimate_noise(copied, train)
    assert copied.tricks["forward_correction"]["matrix"] == estimated
