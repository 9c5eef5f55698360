import torch

from tricks import GradientCentralization


def test_subtracts_the_mean_of_every_output_slice(make_network, make_batch, plain):
    model, batch = make_network(), make_batch()
    plain(model)(batch)
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    loss = GradientCentralization().gradient(plain(model), model)(batch)
    assert not loss.requires_grad
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        if parameter.ndim > 1:
            for output in range(len(gradient)):
                gradient[output] -= gradient[output].mean()
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-7)
        assert not torch.equal(gradient, torch.zeros_like(gradient))


def test_vectors_are_left_alone_and_matrices_are_not(make_network, make_batch, plain):
    model, batch = make_network(), make_batch()
    plain(model)(batch)
    head, norm = model[-1].weight.grad.clone(), model[1].weight.grad.clone()
    GradientCentralization().gradient(plain(model), model)(batch)
    assert torch.equal(model[1].weight.grad, norm)
    assert not torch.allclose(model[-1].weight.grad, head)
    torch.testing.assert_close(model[-1].weight.grad.sum(dim=1), torch.zeros(4), rtol=0, atol=1e-6)


def test_weights_without_gradient_stay_without(make_network, make_batch, plain):
    model = make_network()
    model[0].weight.requires_grad_(False)
    GradientCentralization().gradient(plain(model), model)(make_batch())
    assert model[0].weight.grad is None
