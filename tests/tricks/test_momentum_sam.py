"""Momentum-SAM against a loop written out in plain PyTorch."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tricks import Batch, MomentumSAM, TrickError


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))


def some_batches(model):
    batches = [Batch(torch.randn(8, 3, 6, 6), torch.randint(5, (8,)), step=step) for step in range(6)]
    model(batches[0].images)  # the lazy layer gets its size
    return batches


def reference(model, batches, rho, mu):
    """By the formulas of the paper, one weight vector at a time."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    velocity, losses = None, []
    for batch in batches:
        theta = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        away = torch.zeros_like(theta) if velocity is None else rho * velocity / velocity.norm()
        nn.utils.vector_to_parameters(theta - away, model.parameters())
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch.images), batch.targets)
        loss.backward()
        losses.append(loss.item())
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        velocity = gradient if velocity is None else mu * velocity + gradient
        nn.utils.vector_to_parameters(theta, model.parameters())
        optimizer.step()
    return losses


def plain(model):
    def compute(batch):
        model.zero_grad()
        loss = F.cross_entropy(model(batch.images), batch.targets)
        loss.backward()
        return loss.detach()

    return compute


@pytest.mark.parametrize(("rho", "mu"), [(0.5, 0.9), (2.0, 0.0)])
def test_it_is_the_papers_algorithm(rho, mu):
    ours = small_model()
    batches = some_batches(ours)
    theirs = copy.deepcopy(ours)
    expected = reference(theirs, batches, rho, mu)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
    compute = MomentumSAM(rho, mu).gradient(plain(ours), ours)
    losses = []
    for batch in batches:
        losses.append(compute(batch).item())
        optimizer.step()
    assert losses == pytest.approx(expected, rel=1e-5)
    for mine, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_the_weights_are_restored_exactly_and_the_state_goes_back():
    model = small_model()
    batches = some_batches(model)
    trick = MomentumSAM(rho=1.0)
    compute = trick.gradient(plain(model), model)
    before = [parameter.clone() for parameter in model.parameters()]
    compute(batches[0])
    kept = trick.state()
    gradients = []
    for _ in range(2):
        trick.load_state(kept)
        compute(batches[1])
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    for first, second in zip(*gradients, strict=True):  # batch norm's statistics of training do not change a gradient
        torch.testing.assert_close(first, second)


def test_frozen_weights_stay_and_bad_values_are_named():
    model = small_model()
    batches = some_batches(model)
    model[0].weight.requires_grad_(False)
    frozen = model[0].weight.clone()
    compute = MomentumSAM().gradient(plain(model), model)
    for batch in batches:
        compute(batch)
        assert torch.equal(model[0].weight, frozen)
    model[0].weight.requires_grad_(True)  # as freeze_trunk does half-way
    compute(batches[0])
    assert model[0].weight.grad is not None
    with pytest.raises(TrickError, match="rho must be positive"):
        MomentumSAM(rho=0)
    with pytest.raises(TrickError, match="momentum must be"):
        MomentumSAM(momentum=1)
