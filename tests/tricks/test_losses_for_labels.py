"""Losses for labels that are unequal or wrong, each against its formula written out for one image at a time."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tricks import (
    Batch,
    ClassWeights,
    EarlyLearningRegularization,
    FairnessRegularizer,
    ForwardCorrection,
    GeneralizedCrossEntropy,
    LabelSmoothing,
    LogitAdjustment,
    PeerLoss,
    TrickError,
)
from tricks.forward_correction import confident_transition

COUNTS = [50, 20, 7, 3]
LABELS = torch.repeat_interleave(torch.arange(4), torch.tensor(COUNTS))


def some(count=16, classes=4):
    logits = torch.randn(count, classes, dtype=torch.float64, requires_grad=True)
    return logits, torch.randint(classes, (count,))


def assert_same(ours, written_out, logits):
    """Values and gradients agree."""
    torch.testing.assert_close(ours, written_out, rtol=1e-9, atol=1e-12)
    gradients = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (ours, written_out)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)


def given(trick, labels=LABELS):
    trick.data(torch.zeros(2, 3, 4, 4), labels)
    return trick


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_logit_adjustment(tau):
    logits, targets = some()
    prior = [count / sum(COUNTS) for count in COUNTS]
    written_out = 0.0
    for row, label in zip(logits, targets.tolist(), strict=True):
        terms = [row[k].exp() * prior[k] ** tau for k in range(4)]
        written_out -= (terms[label] / sum(terms)).log() / len(logits)
    assert_same(given(LogitAdjustment(tau)).loss(F.cross_entropy)(logits, targets), written_out, logits)


@pytest.mark.parametrize("kind", ["inverse", "effective"])
def test_class_weights(kind):
    logits, targets = some()
    raw = [1 / n if kind == "inverse" else (1 - 0.9) / (1 - 0.9**n) for n in COUNTS]
    scale = sum(COUNTS) / sum(n * w for n, w in zip(COUNTS, raw, strict=True))
    weights = torch.tensor([scale * w for w in raw], dtype=torch.float64)
    ours = given(ClassWeights(kind, beta=0.9)).loss(F.cross_entropy)(logits, targets)
    assert_same(ours, F.cross_entropy(logits, targets, weight=weights, reduction="sum") / len(logits), logits)
    assert sum(n * w for n, w in zip(COUNTS, weights.tolist(), strict=True)) / sum(COUNTS) == pytest.approx(1)


def test_the_weight_of_smoothed_targets_is_that_of_the_image():
    """Not of the classes that smoothing spreads to: a rare one would else count on every image."""
    logits, targets = some()
    trick = given(ClassWeights())
    weights = trick._weights(torch.tensor(COUNTS, dtype=torch.float64))
    written_out = 0.0
    for row, label in zip(logits.log_softmax(1), targets.tolist(), strict=True):
        written_out -= weights[label] * (0.8 * row[label] + 0.2 * row.mean()) / 16
    loss = trick.loss(LabelSmoothing(0.2).loss(F.cross_entropy))
    assert_same(loss(logits, targets), written_out, logits)


def test_weights_of_equal_classes_change_nothing():
    logits, targets = some()
    for kind in ("inverse", "effective"):
        trick = given(ClassWeights(kind), torch.arange(40) % 4)
        torch.testing.assert_close(trick.loss(F.cross_entropy)(logits, targets), F.cross_entropy(logits, targets))


@pytest.mark.parametrize("q", [0.1, 0.7, 1.0])
def test_generalized_cross_entropy(q):
    logits, targets = some()
    p = logits.softmax(1)[torch.arange(16), targets]
    assert_same(GeneralizedCrossEntropy(q).loss(F.cross_entropy)(logits, targets), ((1 - p**q) / q).mean(), logits)


def test_weights_of_a_beta_close_to_one_stay_finite():
    weights = ClassWeights("effective", beta=0.99999999)._weights(torch.tensor([5000.0, 5.0]))
    assert (weights[1] / weights[0]).item() == pytest.approx(1000, rel=1e-3)


def test_generalized_cross_entropy_becomes_cross_entropy_and_stays_finite():
    logits, targets = some()
    near = GeneralizedCrossEntropy(1e-6).loss(F.cross_entropy)(logits, targets)
    torch.testing.assert_close(near, F.cross_entropy(logits, targets), rtol=1e-4, atol=1e-5)
    sure = torch.tensor([[1e4, -1e4]], requires_grad=True)
    value = GeneralizedCrossEntropy().loss(F.cross_entropy)(sure, torch.tensor([1]))
    assert value.item() == pytest.approx(1 / 0.7)
    assert torch.autograd.grad(value, sure)[0].isfinite().all()


def test_generalized_cross_entropy_does_not_throw_another_trick_away():
    smoothed = LabelSmoothing().loss(F.cross_entropy)
    with pytest.raises(TrickError, match="first"):
        GeneralizedCrossEntropy().loss(smoothed)


def test_forward_correction_of_a_matrix(tmp_path):
    generator = np.random.default_rng(0)
    matrix = generator.dirichlet(np.ones(4), size=4)
    np.save(tmp_path / "T.npy", matrix)
    logits, targets = some()
    written_out = 0.0
    for row, label in zip(logits.softmax(1), targets.tolist(), strict=True):
        written_out -= sum(row[i] * matrix[i, label] for i in range(4)).log() / len(logits)
    ours = ForwardCorrection(file=str(tmp_path / "T.npy")).loss(F.cross_entropy)(logits, targets)
    assert_same(ours, written_out, logits)


def test_forward_correction_of_symmetric_noise():
    logits, targets = some()
    p = logits.softmax(1)[torch.arange(16), targets]
    written_out = -(0.7 * p + 0.1 * (1 - p)).log().mean()
    assert_same(ForwardCorrection(noise=0.3).loss(F.cross_entropy)(logits, targets), written_out, logits)
    plain = ForwardCorrection(noise=0.0).loss(F.cross_entropy)(logits, targets)
    assert_same(plain, F.cross_entropy(logits, targets), logits)


BAD_MATRICES = {
    "rows": np.full((3, 3), 0.3),
    "square": np.full((3, 2), 0.5),
    "negative": np.array([[1.5, -0.5], [0.0, 1.0]]),
    "objects": np.array([["a"]]),
}


@pytest.mark.parametrize("kind", BAD_MATRICES)
def test_a_bad_matrix_is_refused_in_one_line(kind, tmp_path):
    np.save(tmp_path / "T.npy", BAD_MATRICES[kind])
    with pytest.raises(TrickError, match="file must hold") as error:
        ForwardCorrection(file=str(tmp_path / "T.npy")).loss(F.cross_entropy)
    assert "\n" not in str(error.value)


def test_a_matrix_of_other_classes_or_none_is_refused(tmp_path):
    np.save(tmp_path / "T.npy", np.eye(3))
    with pytest.raises(TrickError, match="for 3 classes, and there are 4"):
        ForwardCorrection(file=str(tmp_path / "T.npy")).loss(F.cross_entropy)(*some())
    (tmp_path / "empty.npy").touch()
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    for name in ("absent.npy", "empty.npy", "cut.npz", "other.npz"):
        trick = ForwardCorrection(file=str(tmp_path / name))  # predictions do without it
        with pytest.raises(TrickError, match="must be a matrix"):
            trick.loss(F.cross_entropy)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (((0.5, 0.5), (1.0,)), "rows of equal length"),
        (((0.5, 0.5),), "numbers"),
        (((0.5, 0.4), (0.0, 1.0)), "sum to 1"),
        (((1.5, -0.5), (0.0, 1.0)), "sum to 1"),
    ],
)
def test_a_bad_matrix_in_a_recipe_is_refused_in_one_line(matrix, words):
    with pytest.raises(TrickError, match=f"matrix must hold .*{words}.* got") as error:
        ForwardCorrection("annotators", matrix=matrix)
    assert "\n" not in str(error.value)


def test_a_matrix_in_a_recipe_is_the_noise_of_the_annotators_and_of_nothing_else(tmp_path):
    matrix = np.random.default_rng(0).dirichlet(np.ones(4), size=4)
    np.save(tmp_path / "T.npy", matrix)
    logits, targets = some()
    from_file = ForwardCorrection(file=str(tmp_path / "T.npy")).loss(F.cross_entropy)(logits, targets)
    rows = tuple(map(tuple, matrix.tolist()))
    trick = ForwardCorrection("annotators", matrix=rows)
    assert_same(trick.loss(F.cross_entropy)(logits, targets), from_file, logits)
    with pytest.raises(TrickError, match="for 4 classes, and there are 3"):
        trick.loss(F.cross_entropy)(*some(classes=3))
    a_third = [ForwardCorrection(0.3, matrix=given).loss(F.cross_entropy)(logits, targets) for given in ((), rows)]
    assert_same(*a_third, logits)


def confident_by_hand(p, labels):
    """T by the definition, one image at a time."""
    classes = len(p[0])
    of_label = [[row[j] for row, label in zip(p, labels, strict=True) if label == j] for j in range(classes)]
    threshold = [sum(values) / len(values) for values in of_label]
    joint = [[0.0] * classes for _ in range(classes)]
    for row, label in zip(p, labels, strict=True):
        sure = [j for j in range(classes) if row[j] >= threshold[j]]
        if sure:
            joint[label][max(sure, key=lambda j: row[j])] += 1
    for label in range(classes):
        scale = len(of_label[label]) / sum(joint[label])
        joint[label] = [scale * value for value in joint[label]]
    true = [sum(joint[label][j] for label in range(classes)) for j in range(classes)]
    return [[joint[label][j] / true[j] for label in range(classes)] for j in range(classes)]


def test_noise_from_confident_answers_is_that_of_the_definition():
    logits, labels = torch.randn(200, 4, dtype=torch.float64), torch.randint(4, (200,))
    logits[torch.arange(150), labels[:150]] += 2
    p = logits.softmax(1)
    written_out = torch.tensor(confident_by_hand(p.tolist(), labels.tolist()), dtype=torch.float64)
    torch.testing.assert_close(confident_transition(p, labels), written_out, rtol=1e-12, atol=0)


def test_noise_from_confident_answers_finds_what_was_planted():
    generator = torch.Generator().manual_seed(0)
    true = torch.randint(3, (6000,), generator=generator)
    planted = torch.tensor([[0.6, 0.3, 0.1], [0.0, 1.0, 0.0], [0.2, 0.2, 0.6]], dtype=torch.float64)
    labels = torch.multinomial(planted[true], 1, generator=generator)[:, 0]
    logits = torch.randn(6000, 3, generator=generator).double()
    logits[torch.arange(6000), true] += 4  # a network that knows the true classes well
    torch.testing.assert_close(confident_transition(logits.softmax(1), labels), planted, atol=0.05, rtol=0)
    lonely = confident_transition(logits.softmax(1), labels.clamp(max=1))  # no image is labelled with the last class
    torch.testing.assert_close(lonely.sum(dim=1), torch.ones(3, dtype=torch.float64))
    assert lonely[2, 2] == 1


def test_the_loss_is_corrected_from_the_estimate_on(make_batch):
    """Until then it is the plain loss; the second pass of sam and images that were not seen yet have no part in it."""
    trick, classes = ForwardCorrection("confident"), 4
    labels = torch.arange(40) % classes
    trick.data(torch.zeros(2, 3, 4, 4), labels)
    loss, seen = trick.loss(F.cross_entropy), {}
    for step in range(12):
        ids = torch.randperm(30)[:12]
        logits = torch.randn(12, classes, dtype=torch.float64, requires_grad=True)
        targets = labels[ids]
        trick.batch(make_batch(progress=step / 20, step=step)._replace(ids=ids))
        value = loss(logits, targets)
        if step <= 6:
            seen |= dict(zip(ids.tolist(), logits.detach().softmax(1).tolist(), strict=True))
        if step < 6:
            assert_same(value, F.cross_entropy(logits, targets), logits)
            loss(logits.detach() + 1, targets)
            continue
        by_hand = confident_by_hand([*seen.values()], [labels[n].item() for n in seen])
        matrix = torch.tensor(by_hand, dtype=torch.float64)
        assert_same(value, F.nll_loss((logits.softmax(1) @ matrix).log(), targets), logits)


def test_an_estimate_returns_to_an_earlier_state_to_the_bit(make_batch):
    """Before it, and across it: the loss may have become infinite at any step."""
    trick, labels = ForwardCorrection("confident"), torch.arange(40) % 4
    trick.data(torch.zeros(2, 3, 4, 4), labels)
    loss = trick.loss(F.cross_entropy)

    def train(steps):
        torch.manual_seed(1)
        values = []
        for step in steps:
            ids = torch.randperm(40)[:12]
            trick.batch(make_batch(progress=step / 20, step=step)._replace(ids=ids))
            values.append(loss(torch.randn(12, 4), labels[ids]).item())
        return values

    train(range(4))
    for steps in (range(4, 10), range(10, 14)):
        state = trick.state()
        first = train(steps)
        for _ in range(2):  # the same state again: it was copied
            trick.load_state(state)
            assert train(steps) == first


def test_an_estimate_needs_ids_whole_batches_or_people(make_batch):
    trick = ForwardCorrection("confident")
    with pytest.raises(TrickError, match="ids"):
        trick.batch(make_batch())
    trick.data(torch.zeros(2, 3, 4, 4), LABELS)
    trick.batch(make_batch()._replace(ids=torch.arange(12)))
    with pytest.raises(TrickError, match="whole batches"):
        trick.loss(F.cross_entropy)(*some(6))
    with pytest.raises(TrickError, match="several labels"):
        ForwardCorrection("annotators").loss(F.cross_entropy)
    with pytest.raises(TrickError, match="file must be empty"):
        ForwardCorrection("confident", file="T.npy")


def test_early_learning_regularization_over_several_steps():
    """Images come back in another order, and SAM's second pass leaves the targets alone."""
    trick = EarlyLearningRegularization(strength=2.0, memory=0.6)
    trick.data(torch.zeros(1, 3, 4, 4), torch.zeros(9, dtype=torch.int64))
    loss = trick.loss(F.cross_entropy)
    kept = {number: [0.0] * 4 for number in range(9)}
    for step in range(4):
        ids = torch.randperm(9)[:5]
        logits, targets = some(5)
        trick.batch(Batch(torch.zeros(5, 3, 4, 4), targets, step=step, ids=ids))
        written_out = F.cross_entropy(logits, targets)
        for row, number in zip(logits.softmax(1).clamp(1e-4, 1 - 1e-4), ids.tolist(), strict=True):
            share = (row / row.sum()).tolist()
            kept[number] = [0.6 * t + 0.4 * p for t, p in zip(kept[number], share, strict=True)]
            agreement = sum(p * t for p, t in zip(row, kept[number], strict=True))
            written_out = written_out + 2.0 * (1 - agreement).log() / 5
        assert_same(loss(logits, targets), written_out, logits)
        before = trick.state()["targets"]
        loss(logits.detach() * 2, targets)
        assert torch.equal(trick.state()["targets"], before)


@pytest.mark.parametrize(("progress", "factor"), [(0.0, 0.0), (0.15, 0.4), (0.3, 0.8), (0.9, 0.8)])
def test_peer_loss_by_its_ramp_and_clamp(progress, factor, make_batch):
    trick = given(PeerLoss(alpha=0.8, ramp=0.3, clamp=1.5))
    logits, targets = some()
    trick.batch(make_batch(progress=progress))
    by_chance = 0.0
    for row in logits:
        losses = [-(row[k].exp() / row.exp().sum()).log() for k in range(4)]
        capped = [value if value < 1.5 else torch.tensor(1.5, dtype=torch.float64) for value in losses]
        by_chance = (
            by_chance + sum(count * value for count, value in zip(COUNTS, capped, strict=True)) / sum(COUNTS) / 16
        )
    assert_same(
        trick.loss(F.cross_entropy)(logits, targets), F.cross_entropy(logits, targets) - factor * by_chance, logits
    )


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("groups", ["classes", "head_tail"])
def test_fairness_regularizer(groups, one_sided):
    """Of four classes of 50, 20, 7 and 3 images the first two are the head; the last class is not in the batch."""
    logits, _ = some()
    targets = torch.randint(3, (16,))
    p = logits.softmax(1)[torch.arange(16), targets]
    members = {"classes": [[0], [1], [2]], "head_tail": [[0, 1], [2, 3]]}[groups]
    written_out = F.cross_entropy(logits, targets)
    for classes in members:
        inside = [p[n] for n in range(16) if targets[n].item() in classes]
        if inside:
            distance = p.mean() - sum(inside) / len(inside)
            written_out = written_out + 2.0 * (distance.clamp(min=0) if one_sided else distance.abs())
    trick = given(FairnessRegularizer(2.0, groups, one_sided))
    assert_same(trick.loss(F.cross_entropy)(logits, targets), written_out, logits)
    one_hot = F.one_hot(targets, 4).double()
    assert_same(trick.loss(F.cross_entropy)(logits, one_hot), written_out, logits)


@pytest.mark.parametrize(
    ("counts", "tail"),
    [([50, 20, 7, 3], [0, 0, 1, 1]), ([10, 10], [0, 1]), ([1, 98, 1], [1, 0, 1]), ([5, 5, 5], [0, 0, 1])],
)
def test_the_head_has_five_sixths_of_the_images_and_the_tail_is_never_empty(counts, tail):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    trick = given(FairnessRegularizer(groups="head_tail"), labels)
    assert trick._group_of_class(torch.zeros(1, len(counts))).tolist() == tail


@pytest.mark.parametrize(
    "kind", [LogitAdjustment, ClassWeights, PeerLoss, lambda: FairnessRegularizer(groups="head_tail")]
)
def test_without_labels_one_line_says_what_is_missing(kind):
    with pytest.raises(TrickError, match=r"call data\(images, labels\) first"):
        kind().loss(F.cross_entropy)(*some())


def test_early_learning_targets_of_repeated_images_and_of_an_overflow():
    """An image twice in a batch gets the later one's target; probabilities that are not finite are not kept."""
    trick = EarlyLearningRegularization(memory=0.5)
    trick.data(torch.zeros(1, 3, 4, 4), torch.zeros(3, dtype=torch.int64))
    loss = trick.loss(F.cross_entropy)
    logits, targets = torch.tensor([[0.0, 5.0], [5.0, 0.0], [float("nan"), 0.0]]), torch.zeros(3, dtype=torch.int64)
    trick.batch(Batch(torch.zeros(3, 3, 4, 4), targets, ids=torch.tensor([1, 1, 2])))
    loss(logits, targets)
    kept = trick.state()["targets"]
    torch.testing.assert_close(kept[1], 0.5 * logits[1].softmax(0).clamp(1e-4, 1 - 1e-4), rtol=1e-3, atol=1e-4)
    assert not kept[[0, 2]].any()


def test_without_ids_or_with_half_batches_one_line_says_what_is_missing(make_batch):
    trick = EarlyLearningRegularization()
    with pytest.raises(TrickError, match="ids"):
        trick.batch(make_batch())
    trick.data(torch.zeros(1, 3, 4, 4), torch.zeros(12, dtype=torch.int64))
    with pytest.raises(TrickError, match="ids"):
        trick.batch(make_batch())
    batch = make_batch()._replace(ids=torch.arange(12))
    trick.batch(batch)
    with pytest.raises(TrickError, match="whole batches"):
        trick.loss(F.cross_entropy)(*some(6))


def test_they_wrap_one_another_and_take_soft_targets():
    logits, targets = some()
    soft = torch.rand(16, 4, dtype=torch.float64).softmax(1)
    tricks = [GeneralizedCrossEntropy(), ForwardCorrection(), LogitAdjustment(), LabelSmoothing()]
    tricks += [ClassWeights(), PeerLoss(), FairnessRegularizer()]
    loss = F.cross_entropy
    for trick in tricks:
        given(trick)
        loss = trick.loss(loss)
    for labels in (targets, soft):
        value = loss(logits, labels)
        assert math.isfinite(value.item())
        assert torch.autograd.grad(value, logits)[0].abs().sum() > 0


def test_half_precision_logits_lose_no_weight():
    logits = torch.randn(8, 4).bfloat16()
    targets = torch.randint(4, (8,))
    ours = given(ClassWeights()).loss(F.cross_entropy)(logits.float(), targets)
    coarse = given(ClassWeights()).loss(lambda x, t: F.cross_entropy(x.float(), t))(logits, targets)
    torch.testing.assert_close(ours, coarse)


@pytest.mark.parametrize(
    "trick",
    [
        None,
        GeneralizedCrossEntropy(0.7),
        ForwardCorrection(0.3),
        LabelSmoothing(0.2),
        LogitAdjustment(),
        ClassWeights(),
        PeerLoss(),
    ],
    ids=lambda trick: "cross_entropy" if trick is None else trick.name(),
)
def test_shares_of_the_votes_are_the_mean_over_the_annotators(trick):
    """One pass with a soft target is the same as one pass for each annotator: every loss is linear in the target."""
    logits, first = some()
    votes = torch.stack([first, first.roll(1), torch.randint(4, first.shape)])
    loss = F.cross_entropy if trick is None else given(trick).loss(F.cross_entropy)
    shares = F.one_hot(votes, 4).double().mean(dim=0)
    assert_same(loss(logits, shares), torch.stack([loss(logits, labels) for labels in votes]).mean(), logits)
