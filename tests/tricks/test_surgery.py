import torch
from torch import nn

from tricks.surgery import replace_modules


def test_replaces_wherever_nested_and_however_often_used():
    shared, other = nn.ReLU(), nn.ReLU()
    inner = nn.Module()
    inner.again, inner.nothing = shared, None
    model = nn.Sequential(nn.Linear(2, 2), shared, nn.ModuleList([inner, other]), shared)
    new = nn.Tanh()
    assert replace_modules(model, {shared: new}) is model
    assert [model[1], model[2][0].again, model[3]] == [new] * 3
    assert model[2][1] is other


def test_replaces_the_model_itself():
    old, new = nn.ReLU(), nn.Tanh()
    assert replace_modules(old, {old: new}) is new
    assert torch.equal(new(torch.zeros(1)), torch.zeros(1))
