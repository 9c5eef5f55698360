import copy

import pytest
import torch

from tricks import LayerwiseLearningRate, Muon


def rates(optimizer, model):
    """Name of a parameter → its learning rate."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter]: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}


def test_rates_rise_geometrically_to_the_head(make_network):
    model = make_network()
    optimizer = LayerwiseLearningRate(first=0.01).step(torch.optim.SGD(model.parameters(), lr=2.0), model)
    expected = {"0": 0.02, "1": 0.02, "3": 0.2, "4": 0.2, "8": 2.0}  # layers and the norms behind them
    assert rates(optimizer, model) == pytest.approx(
        {name: expected[name.partition(".")[0]] for name, _ in model.named_parameters()}
    )


def test_other_settings_of_a_group_stay(make_network):
    model = make_network()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = LayerwiseLearningRate().step(torch.optim.SGD(groups, lr=1.0), model)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)


@pytest.mark.parametrize("first", [1.0, 0.25])
def test_a_step_is_that_of_optimizers_with_those_rates(make_network, make_batch, plain, first):
    """Muon's convolutions included: each layer by an optimizer of its own is the reference."""
    ours = make_network()
    theirs = copy.deepcopy(ours)
    muon = Muon(lr=0.1, momentum=0.6, weight_decay=0.1)

    def sgd(model):
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    optimizer = LayerwiseLearningRate(first=first).step(muon.step(sgd(ours), ours), ours)
    shares = [first, first**0.5, 1.0]
    parts = [(theirs[0:3], shares[0]), (theirs[3:6], shares[1]), (theirs[8:], shares[2])]
    others = []
    for part, share in parts:
        own = torch.optim.SGD(part.parameters(), lr=0.05 * share, momentum=0.9)
        others.append(own if part is parts[2][0] else Muon(lr=0.1 * share, weight_decay=0.1).step(own, part))
    for step in range(3):
        batch = make_batch(step=step)
        plain(ours)(batch)
        plain(theirs)(batch)
        optimizer.step()
        for other in others:
            other.step()
    for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter, other)
