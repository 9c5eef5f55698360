import pytest
import timm
import torch
from torch import nn

from tricks import CELU, TrickError


def test_every_activation_becomes_the_published_function():
    model = nn.Sequential(nn.ReLU(), nn.ModuleDict({"inner": nn.Sequential(nn.GELU(), nn.SiLU())}), nn.LeakyReLU())
    CELU(alpha=0.3).model(model)
    x = torch.linspace(-3, 3, 61)
    expected = x.clamp(min=0) + (0.3 * ((x / 0.3).exp() - 1)).clamp(max=0)
    for activation in model[0], *model[1]["inner"], model[2]:
        torch.testing.assert_close(activation(x), expected)


def test_an_existing_celu_gets_the_alpha():
    model = CELU(alpha=0.2).model(nn.Sequential(nn.CELU(alpha=1.0)))
    assert model[0].alpha == 0.2


def test_gates_and_everything_else_stay():
    model = nn.Sequential(nn.Sigmoid(), nn.Softmax(dim=1), nn.Tanh(), nn.Identity(), nn.ReLU())
    before = list(model)[:4]
    CELU().model(model)
    assert list(model)[:4] == before


def test_whether_it_works_in_place_is_kept():
    model = CELU().model(nn.Sequential(nn.ReLU(inplace=True), nn.ReLU()))
    assert [activation.inplace for activation in model] == [True, False]


def test_own_variants_of_a_known_activation_are_found():
    class MyReLU(nn.ReLU):
        pass

    assert isinstance(CELU().model(nn.Sequential(MyReLU()))[0], nn.CELU)


def test_activations_inside_timm_batch_norms_are_found():
    model = CELU(alpha=0.3).model(timm.create_model("mobilenetv2_050", num_classes=3))
    kinds = {type(module).__name__ for module in model.modules()}
    assert "CELU" in kinds
    assert "ReLU6" not in kinds
    assert model.bn1.act.alpha == 0.3
    model(torch.randn(2, 3, 32, 32)).sum().backward()


def test_a_network_without_activation_modules_is_refused():
    with pytest.raises(TrickError, match="no activation"):
        CELU().model(nn.Linear(2, 2))
