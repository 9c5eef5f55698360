"""Sharpness-aware minimization against a loop written out in plain PyTorch."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tricks import SAM, Batch


def reference(model, batches, rho, *, autocast=False):
    """Trains by the formulas of the paper, one parameter at a time, and gives back the losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    losses = []

    def backward(batch):
        for parameter in model.parameters():
            parameter.grad = None
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            logits = model(batch.images)
        loss = F.cross_entropy(logits.float(), batch.targets)
        loss.backward()
        return loss.item()

    for batch in batches:
        losses.append(backward(batch))
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        weights = [parameter.data.clone() for parameter in model.parameters()]
        norm = sum(parameter.grad.double().square().sum() for parameter in model.parameters()).sqrt().float()
        for parameter in model.parameters():
            parameter.data += rho * parameter.grad / norm
        backward(batch)
        for parameter, weight in zip(model.parameters(), weights, strict=True):
            parameter.data = weight
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        optimizer.step()
    return losses


def trained(model, batches, sam, *, autocast=False, scale=1.0):
    """The same with the trick, whose loss may be scaled as fp16 needs it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

    def compute(batch):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            logits = model(batch.images)
        loss = F.cross_entropy(logits.float(), batch.targets)
        (scale * loss).backward()
        for parameter in model.parameters():
            parameter.grad /= scale
        return loss.detach()

    compute = sam.gradient(compute, model)
    losses = []
    for batch in batches:
        losses.append(compute(batch).item())
        optimizer.step()
    return losses


@pytest.mark.parametrize(
    "options", [{}, {"autocast": True}, {"scale": 65536.0}], ids=["fp32", "bf16 autocast", "scaled loss"]
)
def test_equals_the_loop_written_out(make_network, make_batch, options):
    ours = make_network()
    theirs = copy.deepcopy(ours)
    batches = [make_batch(step=step) for step in range(5)]
    expected = reference(theirs, batches, rho=0.5, autocast=options.get("autocast", False))
    losses = trained(ours, batches, SAM(rho=0.5), **options)
    assert losses == pytest.approx(expected, abs=1e-6)
    for name, tensor in theirs.state_dict().items():  # running statistics and their counter included
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=0, atol=1e-6)


def test_it_is_not_what_plain_training_does(make_network, make_batch):
    """Or the comparison above could not fail."""
    ours = make_network()
    theirs = copy.deepcopy(ours)
    batches = [make_batch(step=step) for step in range(5)]
    trained(ours, batches, SAM(rho=0.5))
    trained(theirs, batches, SAM(rho=1e-9))
    assert (ours[0].weight - theirs[0].weight).abs().max() > 1e-3


def test_the_perturbation_has_length_rho_and_is_undone_bit_for_bit(make_network, make_batch, plain):
    model, batch = make_network(), make_batch()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    seen = []

    def watched(batch):
        seen.append([parameter.detach().clone() for parameter in model.parameters()])
        return plain(model)(batch)

    SAM(rho=0.3).gradient(watched, model)(batch)
    assert len(seen) == 2
    distance = sum((p - b).square().sum() for p, b in zip(seen[1], before, strict=True)).sqrt()
    assert distance.item() == pytest.approx(0.3, abs=1e-5)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_interval_and_start_say_when(make_network, make_batch, plain):
    model, batch, passes = make_network(), make_batch(), 0

    def counted(batch):
        nonlocal passes
        passes += 1
        return plain(model)(batch)

    compute = SAM(interval=3, start=0.5).gradient(counted, model)
    counts = []
    for step in range(6):
        for progress in 0.4, 0.5:
            passes = 0
            compute(batch._replace(progress=progress, step=step))
            counts.append(passes)
    assert counts == [1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]


def test_weights_survive_a_gradient_that_is_not_finite(make_network, make_batch, plain):
    model, batch = make_network(), make_batch()
    before = copy.deepcopy(model.state_dict())
    SAM().gradient(plain(model), model)(batch._replace(images=batch.images * float("inf")))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_parameters_without_gradient_stay_put(make_batch, plain):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    model[1].bias.requires_grad_(False)
    bias = model[1].bias.clone()
    batch: Batch = make_batch()
    SAM().gradient(plain(model), model)(batch)
    assert torch.equal(model[1].bias, bias)
    assert model[1].bias.grad is None
