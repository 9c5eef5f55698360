import copy

import pytest
import torch
from torch import nn

from tricks import Muon, TrickError
from tricks.muon import orthogonalize


@pytest.mark.parametrize("shape", [(16, 27), (64, 16), (32, 32), (1, 9)])
def test_newton_schulz_orthogonalizes(shape):
    left, _, right = torch.linalg.svd(torch.randn(3, *shape), full_matrices=False)
    matrices = left * torch.linspace(0.1, 2, min(shape)) @ right
    for matrix in matrices:
        orthogonal = orthogonalize(matrix, steps=5)
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        inner = left.T @ orthogonal @ right.T  # diagonal if the directions agree
        values = inner.diagonal()
        assert values.min() > 0.6
        assert values.max() < 1.3
        assert (inner - values.diag()).abs().max() < 1e-3


@pytest.mark.parametrize("shape", [(24, 200), (60, 30), (40, 40)])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7])
def test_it_is_the_plain_iteration(shape, steps):
    matrix = torch.randn(*shape, dtype=torch.float64)
    x = matrix / matrix.norm()
    for _ in range(steps):
        x = 3.4445 * x - 4.7750 * (x @ x.T) @ x + 2.0315 * (x @ x.T) @ (x @ x.T) @ x
    torch.testing.assert_close(orthogonalize(matrix.float(), steps, 0.5), 0.5 * x.float(), rtol=1e-3, atol=1e-4)


def test_the_size_of_a_matrix_does_not_matter():
    matrix = torch.randn(8, 20)
    torch.testing.assert_close(orthogonalize(matrix * 1e4, 5), orthogonalize(matrix, 5), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(orthogonalize(matrix * 1e-4, 5), orthogonalize(matrix, 5), rtol=1e-2, atol=1e-3)
    assert not orthogonalize(torch.zeros(8, 20), 5).any()


@pytest.mark.parametrize("decay", [0, 2, 5])  # powers of ten from the largest to the smallest singular value
def test_in_bfloat16_no_direction_grows_beyond_the_others(decay):
    left, _, right = torch.linalg.svd(torch.randn(64, 300), full_matrices=False)
    matrix = left * torch.logspace(0, -decay, 64) @ right
    coarse = torch.linalg.svdvals(orthogonalize(matrix.bfloat16(), 5).float())
    exact = torch.linalg.svdvals(orthogonalize(matrix, 5))
    assert coarse.max() < 1.3
    torch.testing.assert_close(coarse.mean(), exact.mean(), rtol=0.05, atol=0)


def test_under_autocast_it_runs_in_bfloat16():
    model = nn.Conv2d(3, 8, 3, bias=False)
    optimizer = Muon(lr=1.0, momentum=0.0).step(torch.optim.SGD(model.parameters(), lr=1.0), model)
    model.weight.data.zero_()
    model.weight.grad = torch.randn_like(model.weight)
    with torch.autocast("cpu", torch.bfloat16):
        optimizer.step()
    coarse = model.weight.detach().clone()
    assert torch.equal(coarse, coarse.bfloat16().float())  # no more digits than that
    model.weight.data.zero_()
    optimizer.step()
    assert not torch.equal(coarse, model.weight)
    assert (coarse - model.weight).norm() < 0.05 * model.weight.norm()


def train(model, optimizer, batches, plain):
    compute = plain(model)
    for batch in batches:
        compute(batch)
        optimizer.step()


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_equals_the_formula_for_convolutions_and_the_given_optimizer_elsewhere(
    make_network, make_batch, plain, nesterov, memory_format
):
    ours = make_network().to(memory_format=memory_format)
    theirs = copy.deepcopy(ours)
    sgd = torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    trick = Muon(lr=0.05, momentum=0.7, nesterov=nesterov, weight_decay=0.1)
    batches = [make_batch() for _ in range(4)]
    train(ours, trick.step(sgd, ours), batches, plain)

    convolutions = [module.weight for module in theirs.modules() if isinstance(module, nn.Conv2d)]
    others = [parameter for parameter in theirs.parameters() if parameter.ndim != 4]
    sgd = torch.optim.SGD(others, lr=0.1, momentum=0.9, weight_decay=0.01)
    moving = [torch.zeros_like(weight) for weight in convolutions]
    compute = plain(theirs)
    for batch in batches:
        compute(batch)
        sgd.step()
        for weight, average in zip(convolutions, moving, strict=True):
            average.mul_(0.7).add_(weight.grad)
            direction = weight.grad + 0.7 * average if nesterov else average
            rows = len(weight)
            update = orthogonalize(direction.reshape(rows, -1), 5).reshape(weight.shape)
            scale = max(1, rows / weight[0].numel()) ** 0.5
            weight.data = weight.data * (1 - 0.05 * 0.1) - 0.05 * scale * update
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=0, atol=1e-5)


def test_tall_matrices_are_scaled():
    model = nn.Conv2d(1, 36, 3, bias=False)
    before = model.weight.detach().clone()
    optimizer = Muon(lr=1.0, momentum=0.0).step(torch.optim.SGD(model.parameters(), lr=1.0), model)
    model.weight.grad = torch.randn_like(model.weight)
    optimizer.step()
    step = torch.linalg.svdvals((before - model.weight.detach()).flatten(1))
    assert step.mean().item() == pytest.approx(2.0, rel=0.25)  # √(36 / 9)


def test_convolutions_of_one_shape_are_stepped_as_each_alone(plain, make_batch):
    layers = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    batch = make_batch()
    optimizer = Muon(momentum=0.0, lr=0.1).step(torch.optim.SGD(model.parameters(), lr=0.1), model)
    plain(model)(batch._replace(targets=batch.targets))
    for index in 1, 3:
        weight = model[index].weight
        expected = weight.detach() - 0.1 * orthogonalize(weight.grad.reshape(8, -1), 5).reshape(weight.shape)
        model[index].expected = expected
    optimizer.step()
    for index in 1, 3:
        torch.testing.assert_close(model[index].weight.detach(), model[index].expected, rtol=0, atol=1e-5)


def test_groups_cover_every_parameter_once_and_keep_their_rates(make_network):
    model = make_network()
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices}, {"params": vectors, "lr": 0.7, "weight_decay": 0.0}]
    optimizer = Muon(lr=0.02).step(torch.optim.SGD(groups, lr=0.3, weight_decay=0.1), model)
    assert isinstance(optimizer, torch.optim.Optimizer)
    listed = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in model.parameters())
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.3, 0.7]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.1, 0.0]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_the_rates_are_obeyed_when_a_schedule_sets_them(make_network, make_batch, plain, kind):
    model = make_network()
    optimizer = Muon().step(kind(model.parameters(), lr=0.1), model)
    plain(model)(make_batch())
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert all(torch.equal(parameter, old) for parameter, old in zip(model.parameters(), before, strict=True))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    plain(model)(make_batch())
    optimizer.step()
    scheduler.step()
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    assert not any(torch.equal(parameter, old) for parameter, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("kind", "options"), [(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}), (torch.optim.AdamW, {"lr": 0.01})]
)
def test_training_resumes_from_its_state(make_network, make_batch, plain, kind, options):
    straight = make_network()
    batches = [make_batch() for _ in range(6)]
    optimizer = Muon().step(kind(straight.parameters(), **options), straight)
    train(straight, optimizer, batches[:3], plain)

    resumed = copy.deepcopy(straight)
    restored = Muon(lr=0.9).step(kind(resumed.parameters(), **options), resumed)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert restored.param_groups[0]["lr"] == Muon().lr
    train(straight, optimizer, batches[3:], plain)
    train(resumed, restored, batches[3:], plain)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_what_the_given_optimizer_remembers_is_kept(make_network, make_batch, plain):
    model, batch = make_network(), make_batch()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, sgd, [batch], plain)
    head = model[-1].weight
    momentum, before = sgd.state[head]["momentum_buffer"].clone(), head.detach().clone()
    train(model, Muon().step(sgd, model), [batch], plain)
    torch.testing.assert_close(head.detach(), before - 0.1 * (0.9 * momentum + head.grad))


def test_zero_grad_closure_and_loss_scaling(make_network, make_batch, plain):
    model = make_network()
    optimizer = Muon().step(torch.optim.SGD(model.parameters(), lr=0.1), model)
    compute, batch = plain(model), make_batch()
    expected = compute(batch)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert optimizer.step(lambda: compute(batch)) == expected
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    scaler.scale(model(batch.images).sum()).backward()
    next(model.parameters()).grad.fill_(float("inf"))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    scaler.step(optimizer)  # skips what is not finite
    assert all(torch.equal(parameter, old) for parameter, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_nothing_may_be_left_for_the_other_optimizer(kind):
    model = nn.Conv2d(3, 4, 3, bias=False)
    optimizer = Muon(lr=0.1).step(kind(model.parameters(), lr=0.1), model)
    before = model.weight.detach().clone()
    model(torch.randn(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)


def test_frozen_convolutions_are_not_taken(make_network):
    model = make_network()
    model[0].weight.requires_grad_(False)
    optimizer = Muon().step(torch.optim.SGD(model.parameters(), lr=0.1), model)
    assert [id(parameter) for parameter in optimizer.param_groups[0]["params"]] == [id(model[3].weight)]


def test_a_network_without_convolutions_is_refused():
    model = nn.Linear(3, 3)
    with pytest.raises(TrickError, match="no convolution"):
        Muon().step(torch.optim.SGD(model.parameters(), lr=0.1), model)
