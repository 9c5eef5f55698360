"""The gradient tricks wrapped around each other, in any order."""

import copy
from itertools import permutations

import pytest
import torch

from tricks import SAM, GradientCentralization, MetaWarmup, frozen_statistics

TRICKS = SAM(rho=0.1), MetaWarmup(alpha=0.1, first_order=False), GradientCentralization()


@pytest.mark.parametrize("order", list(permutations(TRICKS)), ids=lambda order: "-".join(t.name() for t in order))
def test_any_order_gives_gradients_and_restores_weights(make_network, make_batch, plain, order):
    model, batch = make_network(), make_batch()
    expected = copy.deepcopy(model)
    expected(batch.images[:6])  # all that may change are the statistics, by the first half of the batch
    compute = plain(model)
    for trick in order:
        compute = trick.gradient(compute, model)
    loss = compute(batch)
    assert loss.isfinite()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    for parameter in model.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0
    if order[-1].name() == "gradient_centralization":
        sums = model[0].weight.grad.sum(dim=(1, 2, 3))
        torch.testing.assert_close(sums, torch.zeros_like(sums), rtol=0, atol=1e-5)


def test_sam_around_meta_perturbs_along_the_meta_gradient(make_network, make_batch, plain):
    model, batch = make_network(norm=False), make_batch()
    meta = MetaWarmup(alpha=0.1)
    meta.gradient(plain(model), model)(batch)
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    norm = sum(gradient.square().sum() for gradient in gradients).sqrt()
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for parameter, gradient in zip(moved.parameters(), gradients, strict=True):
            parameter += 0.1 * gradient / norm
    with frozen_statistics(moved):
        meta.gradient(plain(moved), moved)(batch)
    SAM(rho=0.1).gradient(meta.gradient(plain(model), model), model)(batch)
    for ours, theirs in zip(model.parameters(), moved.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-6)
