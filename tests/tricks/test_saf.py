"""The trajectory loss against its formula written out for one image at a time."""

import math

import pytest
import torch
from torch.nn import functional as F

from tricks import SAF, SAM, Batch, EarlyLearningRegularization, MetaWarmup, TrickError

N, K = 9, 4


def given(count=N, **values):
    """The trick for so many images, from the first step on."""
    trick = SAF(**{"start": 0.0, **values})
    trick.data(torch.zeros(1, 3, 4, 4), torch.zeros(count, dtype=torch.int64))
    return trick


def some(count=5):
    logits = 3 * torch.randn(count, K, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(K, (count,))


def visit(trick, ids, logits, targets, progress=0.5):
    """The loss of a step with these images."""
    ids = torch.as_tensor(ids)
    trick.batch(Batch(torch.zeros(len(ids), 3, 4, 4), targets, progress, ids=ids))
    return trick.loss(F.cross_entropy)(logits, targets)


def probabilities(row, tau):
    terms = [(value / tau).exp() for value in row]
    return [term / sum(terms) for term in terms]


def divergence(old, new, tau):
    """KL of one image, as a sum over classes."""
    pairs = zip(probabilities(old, tau), probabilities(new, tau), strict=True)
    return sum(p * (p.log() - q.log()) for p, q in pairs)


def assert_same(ours, written_out, logits):
    """Values and gradients agree."""
    torch.testing.assert_close(ours, written_out, rtol=1e-9, atol=1e-12)
    gradients = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (ours, written_out)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("back", "tau", "strength"), [(1, 5.0, 7.5), (1, 1.0, 0.3), (2, 2.0, 1.0), (3, 5.0, 2.0)])
def test_values_and_gradients_over_several_steps(back, tau, strength):
    """Images come back in another order, and each has visits of its own."""
    trick = given(strength=strength, temperature=tau, epochs_back=back)
    visits = {number: [] for number in range(N)}
    compared = 0
    for _ in range(8):
        ids = torch.randperm(N)[:5].tolist()
        logits, targets = some()
        written_out = F.cross_entropy(logits, targets)
        for row, number in zip(logits, ids, strict=True):
            if len(visits[number]) >= back:
                written_out = written_out + strength * divergence(visits[number][-back], row, tau) / 5
                compared += 1
        assert_same(visit(trick, ids, logits, targets), written_out, logits)
        for row, number in zip(logits.detach(), ids, strict=True):
            visits[number].append(row)
    assert 0 < compared < 40


def test_nothing_is_added_before_the_start_and_earlier_outputs_count_from_then_on():
    trick = given(start=0.3, temperature=2.0, strength=1.0)
    earlier, targets = some()
    assert_same(visit(trick, range(5), earlier, targets, 0.1), F.cross_entropy(earlier, targets), earlier)
    early, _ = some()
    loss = visit(trick, range(5), early, targets, 0.29)
    assert torch.equal(loss, F.cross_entropy(early, targets))
    now, _ = some()
    added = sum(divergence(old, new, 2.0) for old, new in zip(early.detach(), now, strict=True)) / 5
    assert_same(visit(trick, range(5), now, targets, 0.3), F.cross_entropy(now, targets) + added, now)


def test_a_first_visit_adds_nothing_to_value_or_gradient():
    trick = given()
    logits, targets = some()
    loss = visit(trick, range(5), logits, targets)
    assert torch.equal(loss, F.cross_entropy(logits, targets))
    plain = torch.autograd.grad(F.cross_entropy(logits, targets), logits)[0]
    assert torch.equal(torch.autograd.grad(loss, logits)[0], plain)


@pytest.mark.parametrize("back", [1, 2])
def test_a_second_pass_compares_with_the_same_outputs_and_keeps_nothing(back):
    trick = given(epochs_back=back, temperature=2.0, strength=1.0)
    (*earlier, (first, targets)) = [some() for _ in range(back + 1)]
    for logits, _ in earlier:
        visit(trick, range(5), logits, targets)
    visit(trick, range(5), first, targets)
    kept = trick.state()["outputs"]
    second, _ = some()
    added = sum(divergence(a, b, 2.0) for a, b in zip(earlier[0][0].detach(), second, strict=True)) / 5
    ours = trick.loss(F.cross_entropy)(second, targets)
    assert_same(ours, F.cross_entropy(second, targets) + added, second)
    assert torch.equal(trick.state()["outputs"], kept)


def test_sam_keeps_the_outputs_at_the_weights_themselves(make_network, make_batch):
    model, batch = make_network(norm=False), make_batch()._replace(ids=torch.arange(12))
    trick = given(12, temperature=1.0)
    loss = trick.loss(F.cross_entropy)

    def compute(batch):
        model.zero_grad()
        value = loss(model(batch.images), batch.targets)
        value.backward()
        return value.detach()

    SAM(rho=1.0).gradient(compute, model)(trick.batch(batch))
    torch.testing.assert_close(trick.state()["outputs"][:, 0].exp(), model(batch.images).softmax(dim=1).detach())


def test_an_image_twice_in_a_batch_is_compared_twice_and_kept_once():
    """Both times with the visit before; the later output is kept, as one visit."""
    trick = given(epochs_back=2, temperature=2.0, strength=1.0)
    outputs = []
    for ids in ([3, 3, 1], [1, 3, 3], [3, 1, 3]):
        logits, targets = some(3)
        loss = visit(trick, ids, logits, targets)
        outputs.append(logits.detach())
    old = {3: outputs[0][1], 1: outputs[0][2]}
    added = sum(divergence(old[number], row, 2.0) for number, row in zip(ids, logits, strict=True)) / 3
    assert_same(loss, F.cross_entropy(logits, targets) + added, logits)
    kept = trick.state()["outputs"]
    for number, rows in {3: (outputs[1][2], outputs[2][2]), 1: (outputs[1][0], outputs[2][1])}.items():
        torch.testing.assert_close(kept[number].exp(), torch.stack(rows).div(2.0).softmax(dim=1))
    assert not kept[[0, 2, 4, 5, 6, 7, 8]].any()


def test_outputs_that_overflowed_are_not_kept():
    """The outputs of before stay, also those of an image that had none."""
    trick = given(temperature=2.0, strength=1.0)
    old, targets = some(3)
    visit(trick, [0, 1, 2], old, targets)
    bad = torch.tensor([[math.inf, 0.0, 1.0, 2.0], [0.0, -math.inf, 1.0, 2.0], [0.0, math.nan, 1.0, 2.0]]).double()
    visit(trick, [0, 1, 3], bad, targets)
    now, _ = some(3)
    added = sum(divergence(old[n].detach(), now[n], 2.0) for n in (0, 1)) / 3
    assert_same(visit(trick, [0, 1, 3], now, targets), F.cross_entropy(now, targets) + added, now)


def test_sure_outputs_stay_finite():
    trick = given(temperature=1.0)
    sure = torch.tensor([[1e4, -1e4, 0.0, 0.0], [0.0, 0.0, 0.0, 1e4]], requires_grad=True)
    targets = torch.tensor([0, 3])
    visit(trick, [0, 1], sure, targets)
    loss = visit(trick, [1, 0], sure, targets)
    assert loss.item() > 1e3  # each is sure of the class that the other was not
    assert torch.autograd.grad(loss, sure)[0].isfinite().all()


def test_half_precision_logits_are_kept_and_compared_in_full_precision():
    logits = [torch.randn(5, K).bfloat16() for _ in range(2)]
    targets = torch.randint(K, (5,))
    half, full = given(), given()
    for each in logits:
        a = visit(half, range(5), each, targets) - F.cross_entropy(each, targets)
        b = visit(full, range(5), each.float(), targets) - F.cross_entropy(each.float(), targets)
    assert torch.equal(half.state()["outputs"], full.state()["outputs"])
    torch.testing.assert_close(a, b)


def test_training_goes_back_to_a_state_to_the_bit_and_more_than_once():
    trick = given(epochs_back=2)
    empty = trick.state()
    steps = [(torch.randperm(N)[:5], *some()) for _ in range(9)]

    def losses(chosen):
        return torch.stack([visit(trick, *step).detach() for step in chosen])

    from_the_start = losses(steps[:4])
    kept = trick.state()
    copy = kept["outputs"].clone()
    later = losses(steps[4:])
    assert not torch.equal(trick.state()["outputs"], copy)
    for _ in range(2):
        trick.load_state(kept)
        assert torch.equal(losses(steps[4:]), later)
        assert torch.equal(kept["outputs"], copy)
    trick.load_state(empty)
    assert torch.equal(losses(steps[:4]), from_the_start)


def test_without_ids_or_with_half_batches_one_line_says_what_is_missing(make_network, make_batch):
    batch = make_batch()._replace(ids=torch.arange(12))
    with pytest.raises(TrickError, match=r"saf keeps an output .* call data\(images, labels\) first"):
        SAF().batch(batch)
    with pytest.raises(TrickError, match=r"ids=\.\.\."):
        given(12).batch(make_batch())
    messages = []
    for trick in (given(12), EarlyLearningRegularization()):
        trick.data(batch.images, batch.targets)
        trick.batch(batch)
        loss, model = trick.loss(F.cross_entropy), make_network()

        def compute(batch, loss=loss, model=model):
            return loss(model(batch.images), batch.targets)

        with pytest.raises(TrickError, match="whole batches") as error:
            MetaWarmup().gradient(compute, model)(batch)
        messages.append(str(error.value).removeprefix(trick.name()))
    assert messages[0] == messages[1]
