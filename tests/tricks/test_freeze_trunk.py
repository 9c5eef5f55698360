import copy

import pytest
import timm
import torch
from torch import nn

from tricks import FreezeTrunk, Muon, TrickError, WeightAveraging
from tricks.freeze_trunk import find_head


def test_the_head_learns_alone_and_then_all_of_the_network(make_network, make_batch, plain):
    """Frozen, it is a linear classifier on fixed features, statistics included; afterwards it is the plain network."""
    ours = make_network()
    batches = [make_batch(progress=step / 4, step=step) for step in range(4)]
    expected = copy.deepcopy(ours).eval()
    head = expected[-1]
    reference = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
    compute = FreezeTrunk(until=0.5).gradient(plain(ours), ours)
    for batch in batches[:2]:
        ours.train()  # as a loop may say before every step
        compute(batch)
        optimizer.step()
        with torch.no_grad():
            features = expected[:-1](batch.images)
        reference.zero_grad()
        nn.functional.cross_entropy(head(features), batch.targets).backward()
        reference.step()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=0, atol=1e-6)

    expected.load_state_dict(ours.state_dict())
    plain_gradient = plain(expected.train())
    for batch in batches[2:]:
        assert compute(batch) == plain_gradient(batch)
        for parameter, other in zip(ours.parameters(), expected.parameters(), strict=True):
            assert torch.equal(parameter.grad, other.grad)
        assert torch.equal(ours[1].running_mean, expected[1].running_mean)


@pytest.mark.parametrize(("lower", "layers"), [(0.0, 0), (0.3, 0), (0.34, 1), (0.5, 1), (0.99, 2)])
def test_the_lower_layers_never_train_and_the_others_do(make_network, make_batch, plain, lower, layers):
    """Of three layers, the head among them, which always trains."""
    model = make_network()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    compute = FreezeTrunk(lower=lower, until=0).gradient(plain(model), model)
    for step in range(3):
        model.train()
        compute(make_batch(progress=step / 3, step=step))
        optimizer.step()
    frozen = ("0.", "1.", "3.", "4.")[: 2 * layers]
    for name, tensor in before.items():
        assert torch.equal(model.state_dict()[name], tensor) == name.startswith(frozen), name


def test_what_was_frozen_before_stays_frozen(make_network, make_batch, plain):
    model = make_network()
    model[0].weight.requires_grad_(False)
    compute = FreezeTrunk(until=0.5).gradient(plain(model), model)
    for progress in (0.0, 0.6):
        compute(make_batch(progress=progress))
        assert model[0].weight.grad is None
    assert model[3].weight.grad is not None


def test_with_muon_and_averaging(make_network, make_batch, plain):
    model = make_network()
    trunk = copy.deepcopy(model[:-1].state_dict())
    optimizer = Muon().step(torch.optim.SGD(model.parameters(), lr=0.1), model)
    compute, averaging = FreezeTrunk(until=0.5).gradient(plain(model), model), WeightAveraging(interval=1)
    for step in range(6):
        compute(make_batch(progress=step / 12, step=step))
        optimizer.step()
        averaged = averaging.weights(model.state_dict(), step + 1)
    for name, tensor in trunk.items():
        assert torch.equal(model.state_dict()[name], tensor), name
        torch.testing.assert_close(averaged[name], tensor)
    compute(make_batch(progress=0.9))
    optimizer.step()
    assert not torch.equal(model[0].weight, trunk["0.weight"])


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "efficientnet_lite0", "convnext_atto"])
def test_the_head_of_timms_networks(name):
    network = timm.create_model(name, num_classes=7)
    wrapped = nn.Sequential(network)
    assert find_head(wrapped) == (network.get_classifier(),)
    assert find_head(wrapped)[0].out_features == 7


def test_all_of_several_heads():
    network = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=7)
    assert find_head(network) == (network.head, network.head_dist)


def test_a_network_without_a_head_is_refused():
    with pytest.raises(TrickError, match="no linear layer"):
        FreezeTrunk().gradient(len, nn.Conv2d(3, 4, 1))
