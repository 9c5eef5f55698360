import torch
from torch import nn

from tricks import WeightAveraging


def test_equals_the_closed_form():
    """The average is a weighted sum of all that was seen, with weights from the products of the decays."""
    decay, count = 0.6, 12
    trick, seen = WeightAveraging(decay, interval=1), torch.randn(count, 3, dtype=torch.float64)
    weight = torch.empty(3, dtype=torch.float64)
    for step in range(count):
        weight.copy_(seen[step])
        average = trick.weights({"weight": weight}, step)["weight"]
    decays = [min(decay, (1 + n) / (10 + n)) for n in range(1, count)]
    expected = torch.tensor(decays).double().prod() * seen[0]
    for n in range(1, count):
        expected += (1 - decays[n - 1]) * torch.tensor([1.0, *decays[n:]]).double().prod() * seen[n]
    torch.testing.assert_close(average, expected, rtol=0, atol=1e-7)


def test_updates_at_the_interval_only():
    trick, weight, averages = WeightAveraging(interval=5), torch.zeros(1), []
    for step in range(16):
        weight += 1
        averages.append(trick.weights({"weight": weight}, step)["weight"].item())
    changed = [step for step in range(1, 16) if averages[step] != averages[step - 1]]
    assert changed == [1, 2, 3, 4, 5, 10, 15]  # before the first update, the last weights predict
    assert averages[:5] == [1, 2, 3, 4, 5]


def test_a_constant_stays_itself_bit_for_bit():
    """As the fixed filters of patch whitening must."""
    trick, weight = WeightAveraging(interval=1), torch.randn(100)
    for step in range(20):
        average = trick.weights({"weight": weight}, step)["weight"]
    assert torch.equal(average, weight)


def test_statistics_are_averaged_and_counters_copied():
    model, trick = nn.BatchNorm2d(3), WeightAveraging(interval=1)
    for step in range(4):
        model(torch.randn(8, 3, 4, 4) + 5)
        average = trick.weights(model.state_dict(), step)
    assert average.keys() == model.state_dict().keys()
    assert average["num_batches_tracked"] == 4
    assert (average["running_mean"] < model.running_mean).all()
    assert (average["running_mean"] > 0.5).all()


def test_the_network_and_its_average_share_no_memory():
    model, trick = nn.Linear(2, 2), WeightAveraging(interval=1)
    before = model.weight.detach().clone()
    average = trick.weights(model.state_dict(), 0)
    with torch.no_grad():
        model.weight += 1
    assert torch.equal(average["weight"], before)
    trick.weights(model.state_dict(), 1)
    assert torch.equal(model.weight, before + 1)
    assert not average["weight"].requires_grad


def test_the_beginning_is_soon_forgotten():
    trick, weight = WeightAveraging(decay=0.999, interval=1), torch.full((1,), 1000.0)
    trick.weights({"weight": weight}, 0)
    weight.zero_()
    for step in range(1, 51):
        average = trick.weights({"weight": weight}, step)
    assert average["weight"].item() < 0.01  # a plain average would stand at 951


def test_a_new_run_begins_anew():
    used, fresh = WeightAveraging(interval=1), WeightAveraging(interval=1)
    for step in range(10):
        used.weights({"weight": torch.ones(1)}, step)
    for step in range(4):
        state = {"weight": torch.full((1,), float(step))}
        assert torch.equal(used.weights(state, step)["weight"], fresh.weights(state, step)["weight"])


def test_a_loaded_state_repeats_the_average_as_often_as_it_is_loaded():
    model, trick = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), WeightAveraging(decay=0.9, interval=2)

    def train(steps):
        """The averages after each of these steps, with the same images each time."""
        torch.manual_seed(1)
        optimizer, averages = torch.optim.SGD(model.parameters(), lr=0.1), []
        for step in steps:
            optimizer.zero_grad()
            (model(torch.randn(8, 3, 6, 6)) - 1).square().mean().backward()
            optimizer.step()
            averages.append({name: t.clone() for name, t in trick.weights(model.state_dict(), step).items()})
        return averages

    train(range(7))
    weights, state = {name: tensor.clone() for name, tensor in model.state_dict().items()}, trick.state()
    first = train(range(7, 17))
    assert not torch.equal(first[-1]["0.weight"], state["average"]["0.weight"])
    for _ in range(2):
        model.load_state_dict(weights)
        trick.load_state(state)
        for now, then in zip(train(range(7, 17)), first, strict=True):
            assert now.keys() == then.keys()
            assert all(torch.equal(now[name], then[name]) for name in then)


def test_a_state_from_before_the_first_step_can_be_loaded():
    trick, weight = WeightAveraging(interval=1), torch.ones(2)
    empty = trick.state()
    for step in range(1, 4):
        trick.weights({"weight": weight * step}, step)
    trick.load_state(empty)
    assert torch.equal(trick.weights({"weight": weight}, 4)["weight"], weight)
