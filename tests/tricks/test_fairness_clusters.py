"""The fairness regularizer with clusters as groups: its term, k-means, and the features that it keeps."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2, vq
from torch import nn
from torch.nn import functional as F

from tricks import SAM, Batch, FairnessRegularizer, MetaWarmup, TrickError, fairness_regularizer
from tricks.k_means import first_centres, k_means, nearest_centre


def given(images, clusters, **options):
    """The trick for so many training images."""
    trick = FairnessRegularizer(groups="clusters", clusters=clusters, **options)
    trick.data(torch.zeros(2, 3, 4, 4), torch.zeros(images, dtype=torch.int64))
    return trick


def looping(trick, network, losses=None, outside=None):
    """A step of a plain training loop with the trick, without the optimizer; `outside` wraps around it."""
    loss = trick.loss(F.cross_entropy)

    def compute(batch):
        network.zero_grad()
        value = loss(network(batch.images), batch.targets)
        if losses is not None:
            losses.append(value.detach())
        value.backward()
        return value.detach()

    compute = trick.gradient(compute, network)
    if outside is not None:
        compute = outside.gradient(compute, network)
    return lambda batch: compute(trick.batch(batch))


def seeing(features, ids, progress):
    """A batch whose images are the features themselves, where the network is its head alone."""
    return Batch(features, torch.zeros(len(ids), dtype=torch.int64), progress, ids=torch.tensor(ids))


def blobs(count, size, clusters):
    """`count` points close to `clusters` places, and the place of each."""
    at = torch.randperm(count) % clusters
    return 3 * torch.eye(size)[at] + 0.01 * torch.randn(count, size), at


def in_one_line(words):
    """Expects an error that says so."""
    return pytest.raises(TrickError, match=rf"\A[^\n]*{words}[^\n]*\Z")


def same_partition(one, other):
    """Whether two lists of groups name the same groups, under other numbers."""
    pairs = set(zip(one.tolist(), other.tolist(), strict=True))
    return len(pairs) == len(set(one.tolist())) == len(set(other.tolist()))


@pytest.mark.parametrize("one_sided", [False, True])
def test_the_term_and_its_gradient_written_out_in_numpy(one_sided):
    """Of 3 groups the last is not in the batch; images without a group count in the mean of the batch alone."""
    trick = given(30, 3, strength=2.0, one_sided=one_sided)
    group_of_image = torch.tensor([0, 1, 3] * 8 + [2] * 6)
    trick.load_state({"features": None, "centres": None, "group_of_image": group_of_image, "tenths": 10})
    chance = np.random.default_rng(0)
    ids, targets, z = chance.permutation(24)[:16], chance.integers(4, size=16), chance.normal(size=(16, 4))

    everything = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    one_hot = np.eye(4)[targets]
    p, groups = everything[np.arange(16), targets], group_of_image.numpy()[ids]
    value, by_p = -np.log(p).mean(), np.zeros(16)
    for group in range(3):
        inside = groups == group
        if inside.any():
            distance = p.mean() - p[inside].mean()
            counted = distance > 0 or not one_sided
            value += 2.0 * counted * abs(distance)
            by_p += 2.0 * counted * np.sign(distance) * (1 / 16 - inside / inside.sum())
    gradient = (everything - one_hot) / 16 + by_p[:, None] * p[:, None] * (one_hot - everything)

    logits, values = torch.tensor(z, requires_grad=True), []
    head, loss = nn.Linear(5, 4), trick.loss(F.cross_entropy)

    def compute(batch):
        head(batch.images)  # for the features, which every step needs
        values.append(loss(logits, batch.targets))
        return values[-1]

    batch = Batch(torch.randn(16, 5), torch.tensor(targets), 0.95, ids=torch.tensor(ids))
    trick.gradient(compute, head)(trick.batch(batch))
    assert set(groups) == {0, 1, 3}
    assert values[0].item() == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(torch.autograd.grad(values[0], logits)[0].numpy(), gradient, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("iterations", [1, 3, 200])
def test_k_means_is_that_of_scipy(iterations):
    points = np.random.default_rng(1).normal(size=(300, 6))
    theirs, _ = kmeans2(points, points[:7], iter=iterations, minit="matrix")
    ours = k_means(torch.tensor(points), torch.tensor(points[:7]), iterations)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9, atol=1e-12)
    assert nearest_centre(torch.tensor(points), ours).tolist() == vq(points, theirs)[0].tolist()


def test_a_centre_without_points_stays_where_it_is():
    points = torch.randn(40, 3)
    start = torch.cat([points[:2], torch.full((1, 3), 1e3)])
    centres = k_means(points, start, 20)
    assert torch.equal(centres[2], start[2])
    torch.testing.assert_close(centres[:2], k_means(points, start[:2], 20))


def test_the_first_centres_are_far_apart_and_the_same_again_without_touching_the_common_random_numbers():
    points, at = blobs(200, 8, 8)
    before = torch.get_rng_state()
    centres = first_centres(points, 8)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(first_centres(points, 8), centres)
    places = [(points == centre).all(dim=1).nonzero().item() for centre in centres]  # each is one of the points
    assert sorted(at[places].tolist()) == list(range(8))


def test_fewer_points_than_clusters_are_no_error():
    points = torch.randn(3, 4)
    centres = k_means(points, first_centres(points, 5), 20)
    assert centres.shape == (5, 4)
    assert len(set(nearest_centre(points, centres).tolist())) == 3
    assert first_centres(torch.zeros(3, 4), 5).shape == (5, 4)


def test_planted_clusters_are_found_in_training_and_no_random_number_is_drawn():
    planted = torch.randperm(24) % 4
    colours = torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [0, 0, 3.0], [-3.0, -3.0, -3.0]])
    images = colours[planted][:, :, None, None] + 0.1 * torch.randn(24, 3, 6, 6)
    labels = torch.randint(5, (24,))
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 5))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    trick, losses = given(24, 4), []
    step = looping(trick, network, losses)
    before = torch.get_rng_state()
    for number, progress in enumerate((0.0, 0.06, 0.12, 0.18)):
        ids = torch.arange(12) * 2 + number % 2
        step(Batch(images[ids], labels[ids], progress, number, 5, ids))
        optimizer.step()
    assert torch.equal(torch.get_rng_state(), before)
    assert same_partition(trick.state()["group_of_image"], planted)
    with torch.no_grad():
        plain = F.cross_entropy(network(images), labels)
    step(Batch(images, labels, 0.19, 4, 5, torch.arange(24)))
    assert losses[-1] > plain + 0.001  # the groups are at work


def test_there_is_no_term_before_the_first_tenth_nor_for_images_that_came_later():
    features, _ = blobs(30, 4, 3)
    network, losses = nn.Linear(4, 4), []
    trick = given(30, 3)
    step = looping(trick, network, losses)

    def plain(first, end):
        with torch.no_grad():
            return F.cross_entropy(network(features[first:end]), torch.zeros(end - first, dtype=torch.int64))

    for progress in (0.0, 0.099):
        step(seeing(features[:20], list(range(20)), progress))
        assert torch.equal(losses[-1], plain(0, 20))
        assert trick.state()["group_of_image"] is None
    step(seeing(features[:20], list(range(20)), 0.1))
    assert losses[-1] > plain(0, 20)
    assert trick.state()["group_of_image"][20:].tolist() == [3] * 10  # none of the three
    step(seeing(features[20:], list(range(20, 30)), 0.15))
    assert torch.equal(losses[-1], plain(20, 30))
    step(seeing(features[20:], list(range(20, 30)), 0.2))
    assert losses[-1] > plain(20, 30)
    assert (trick.state()["group_of_image"] < 3).all()


def test_groups_follow_the_features_at_every_tenth_and_start_from_the_centres_before():
    features, at = blobs(12, 3, 2)
    trick = given(12, 2)
    step = looping(trick, nn.Linear(3, 4))
    step(seeing(features, list(range(12)), 0.34))  # tenths that no step fell into are made up for once
    first = trick.state()["group_of_image"]
    assert same_partition(first, at)

    one, other = (at == 0).nonzero()[0].item(), (at == 1).nonzero()[0].item()
    order = torch.arange(12)
    order[[one, other]] = order[[other, one]]  # these two images look like each other now
    step(seeing(features[order], list(range(12)), 0.39))
    assert torch.equal(trick.state()["group_of_image"], first)
    step(seeing(features[order], list(range(12)), 0.4))
    assert torch.equal(trick.state()["group_of_image"], first[order])

    state = trick.state()
    state["centres"] = state["centres"].flip(0)
    trick.load_state(state)
    step(seeing(features[order], list(range(12)), 0.5))
    assert torch.equal(trick.state()["group_of_image"], 1 - first[order])


def test_steps_repeat_to_the_bit_from_a_loaded_state(make_network, make_batch):
    trick, network = given(40, 3), make_network()
    step, optimizer = looping(trick, network), torch.optim.SGD(network.parameters(), lr=0.1)

    def train(steps):
        torch.manual_seed(1)
        kept = []
        for number in steps:
            ids = torch.randperm(40)[:12]
            step(make_batch(progress=number / 20, step=number)._replace(ids=ids))
            optimizer.step()
            kept.append([copy.deepcopy(network.state_dict()), trick.state()])
        return kept

    train(range(3))
    start, state = copy.deepcopy(network.state_dict()), trick.state()
    untouched = copy.deepcopy(state)
    first = train(range(3, 12))
    assert not torch.equal(first[-1][1]["group_of_image"], state["group_of_image"])
    for _ in range(2):
        network.load_state_dict(start)
        trick.load_state(state)
        for now, then in zip(train(range(3, 12)), first, strict=True):
            for ours, theirs in zip(now, then, strict=True):
                assert ours.keys() == theirs.keys()
                for name, value in theirs.items():
                    torch.testing.assert_close(ours[name], value, rtol=0, atol=0, equal_nan=True)
        for name, value in untouched.items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=0, equal_nan=True)


def test_other_groups_carry_nothing_and_hook_nothing(make_network, make_batch):
    for groups in ("classes", "head_tail"):
        trick, batch = FairnessRegularizer(groups=groups), make_batch()
        assert trick.state() == {}
        assert trick.gradient(len, make_network()) is len
        assert trick.batch(batch) is batch  # without data and without ids


def test_what_it_cannot_do_without_is_said_in_one_line(make_network, make_batch):
    batch = make_batch()._replace(ids=torch.arange(12))
    network, trick = make_network(), given(12, 3)
    loss = trick.loss(F.cross_entropy)
    with in_one_line(r"call data\(images, labels\) first"):
        FairnessRegularizer(groups="clusters").batch(batch)
    with in_one_line("ids"):
        trick.batch(make_batch())
    with in_one_line("ids"):  # no step has begun
        loss(torch.randn(12, 4), batch.targets)
    trick.batch(batch)
    with in_one_line("gradient"):  # nothing has seen the features
        loss(torch.randn(12, 4), batch.targets)
    with in_one_line(r"whole batches.*meta_warmup"):
        looping(trick, network, outside=MetaWarmup())(batch)
    with in_one_line("no linear layer"):
        trick.gradient(len, nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()))
    halves = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (2, 96)), nn.Flatten(0, 1), nn.Linear(96, 2))
    with in_one_line("24 rows for 12 images"):
        looping(trick, nn.Sequential(halves, nn.Unflatten(0, (12, 2)), nn.Flatten()))(batch)


def test_prediction_copies_and_pickles_know_nothing_of_it(make_network, make_batch):
    network = make_network()
    names = list(network.state_dict())
    trick = given(12, 3)
    step = looping(trick, network)
    step(make_batch(progress=0.2)._replace(ids=torch.arange(12)))
    before = trick.state()
    trick.batch(make_batch(progress=0.4)._replace(ids=torch.arange(12)))  # a step has begun
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert list(network.state_dict()) == names
    for other in (network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        other.eval()(torch.randn(5, 3, 8, 8))
        other.train()(torch.randn(5, 3, 8, 8))
    for name, value in trick.state().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_step_that_fails_leaves_no_hook(make_network, make_batch):
    network, trick = make_network(), given(12, 3)

    def fails(batch):
        assert network[-1]._forward_pre_hooks
        raise KeyError

    with pytest.raises(KeyError):
        trick.gradient(fails, network)(make_batch())
    assert not network[-1]._forward_pre_hooks


def test_the_second_pass_of_sam_keeps_no_features(make_network, make_batch):
    network, trick, seen, losses = make_network(norm=False), given(12, 3), [], []
    network[-1].register_forward_pre_hook(lambda head, inputs: seen.append(inputs[0].detach().clone()))
    step = looping(trick, network, losses, outside=SAM(rho=0.5))
    step(make_batch(progress=0.2)._replace(ids=torch.arange(12).flip(0)))
    assert len(seen) == len(losses) == 2
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(trick.state()["features"], seen[0].flip(0))


def test_features_of_an_overflow_are_not_kept_and_of_an_image_twice_the_later_ones_are():
    features, _ = blobs(6, 4, 2)
    trick = given(6, 2)
    step = looping(trick, nn.Linear(4, 4))
    step(seeing(features[:4], [0, 1, 1, 2], 0.0))
    kept = trick.state()["features"]
    assert torch.equal(kept[:3], features[[0, 2, 3]])
    assert kept[3:].isnan().all()
    broken = features.clone()
    broken[0, 1], broken[3, 0] = torch.inf, torch.nan
    step(seeing(broken[[0, 3, 4]], [0, 3, 4], 0.1))
    state = trick.state()
    assert torch.equal(state["features"][[0, 4]], features[[0, 4]])
    assert state["features"][[3, 5]].isnan().all()
    assert [group < 2 for group in state["group_of_image"].tolist()] == [True, True, True, False, True, False]
    assert state["centres"].isfinite().all()


def test_many_images_have_groups_by_centres_of_some(monkeypatch):
    monkeypatch.setattr(fairness_regularizer, "FITTED", 8)
    features = torch.randn(40, 4)
    trick = given(40, 3)
    looping(trick, nn.Linear(4, 4))(seeing(features, list(range(40)), 0.1))
    some = features[::5]
    theirs, _ = kmeans2(some.numpy(), first_centres(some, 3).numpy(), iter=20, minit="matrix")
    np.testing.assert_allclose(trick.state()["centres"].numpy(), theirs, rtol=1e-4, atol=1e-5)
    assert trick.state()["group_of_image"].tolist() == vq(features.numpy(), theirs)[0].tolist()


def test_clusters_are_found_in_full_precision_under_autocast():
    features, centres = torch.randn(60, 5), []
    for half in (False, True):
        trick = given(60, 4)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            looping(trick, nn.Linear(5, 4))(seeing(features, list(range(60)), 0.1))
        centres.append(trick.state()["centres"])
    assert torch.equal(*centres)
