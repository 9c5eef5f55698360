"""The meta-learning step against exact derivatives."""

import copy

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from tricks import MetaWarmup


def exact(model, batch, alpha, *, first_order):
    """The gradient of L₁(θ) + L₂(θ − α ∇L₁(θ)) by automatic differentiation through the inner step."""
    half = len(batch.images) // 2
    names, parameters = zip(*model.named_parameters(), strict=True)

    def loss(weights, part):
        logits = functional_call(model, dict(zip(names, weights, strict=True)), batch.images[part])
        return F.cross_entropy(logits, batch.targets[part])

    first = loss(parameters, slice(None, half))
    inner = torch.autograd.grad(first, parameters, create_graph=True)
    if first_order:
        inner = [gradient.detach() for gradient in inner]
    stepped = [parameter - alpha * gradient for parameter, gradient in zip(parameters, inner, strict=True)]
    return first, torch.autograd.grad(first + loss(stepped, slice(half, None)), parameters)


@pytest.mark.parametrize(("first_order", "tolerance"), [(True, 1e-12), (False, 1e-5)])
@pytest.mark.parametrize("count", [12, 11])
def test_equals_the_exact_gradient(make_network, make_batch, plain, first_order, tolerance, count):
    model = make_network(norm=False, smooth=True).double()
    batch = make_batch(count)
    batch = batch._replace(images=batch.images.double())
    alpha = 2.0  # large, so that the inner step and the curvature matter
    loss, expected = exact(model, batch, alpha, first_order=first_order)
    reported = MetaWarmup(alpha, first_order=first_order).gradient(plain(model), model)(batch)
    torch.testing.assert_close(reported, loss.detach(), rtol=0, atol=1e-12)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=tolerance)


def test_the_orders_differ_by_more_than_the_tolerance(make_network, make_batch):
    """Or the comparison above could not tell them apart."""
    model = make_network(norm=False, smooth=True).double()
    batch = make_batch()
    batch = batch._replace(images=batch.images.double())
    _, one = exact(model, batch, 2.0, first_order=True)
    _, two = exact(model, batch, 2.0, first_order=False)
    _, tiny = exact(model, batch, 1e-9, first_order=True)
    assert max((a - b).abs().max() for a, b in zip(one, two, strict=True)) > 1e-3
    assert max((a - b).abs().max() for a, b in zip(one, tiny, strict=True)) > 1e-3


@pytest.mark.parametrize("first_order", [True, False])
def test_only_the_first_pass_touches_statistics_and_weights_are_restored(make_network, make_batch, plain, first_order):
    model, batch = make_network(), make_batch()
    expected = copy.deepcopy(model)
    expected(batch.images[:6])
    MetaWarmup(first_order=first_order).gradient(plain(model), model)(batch)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_gradients_may_be_overwritten_in_place(make_network, make_batch, plain):
    """As they are where they live in the buckets of distributed training."""
    model, batch = make_network(norm=False), make_batch()
    trick = MetaWarmup(alpha=1.0, first_order=False)

    def in_place(batch):
        model.zero_grad(set_to_none=False)
        loss = F.cross_entropy(model(batch.images), batch.targets)
        loss.backward()
        return loss.detach()

    trick.gradient(plain(model), model)(batch)
    expected = [parameter.grad for parameter in model.parameters()]
    plain(model)(batch)
    trick.gradient(in_place, model)(batch)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_frozen_part_gets_no_gradient(make_network, make_batch, plain):
    model = make_network()
    model[0].weight.requires_grad_(False)
    MetaWarmup().gradient(plain(model), model)(make_batch())
    assert model[0].weight.grad is None
    assert all(parameter.grad is not None for parameter in list(model.parameters())[1:])


@pytest.mark.parametrize(("count", "progress"), [(12, 0.2), (12, 1.0), (1, 0.0)])
def test_later_or_with_a_single_image_it_is_the_plain_gradient(make_network, make_batch, plain, count, progress):
    model, batch = make_network(), make_batch(count, progress=progress)
    loss = plain(model)(batch)
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    assert torch.equal(MetaWarmup(fraction=0.2).gradient(plain(model), model)(batch), loss)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
