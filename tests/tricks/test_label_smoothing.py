import pytest
import torch
from torch.nn import functional as F

from tricks import LabelSmoothing


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_equals_the_label_smoothing_of_cross_entropy(smoothing):
    logits, targets = torch.randn(32, 7, dtype=torch.float64), torch.randint(7, (32,))
    loss = LabelSmoothing(smoothing).loss(F.cross_entropy)
    expected = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    torch.testing.assert_close(loss(logits, targets), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("smoothing", [-0.4, -6.0])
def test_negative_smoothing_is_the_same_formula(smoothing):
    """Equation 3 of arXiv 2106.04149: (1 − r) of the given label's loss and r / K of every label's."""
    logits, targets = torch.randn(32, 7, dtype=torch.float64), torch.randint(7, (32,))
    log_p = logits.log_softmax(1)
    expected = -((1 - smoothing) * log_p[torch.arange(32), targets] + smoothing / 7 * log_p.sum(1)).mean()
    torch.testing.assert_close(LabelSmoothing(smoothing).loss(F.cross_entropy)(logits, targets), expected)


def test_takes_probabilities_as_mixup_makes_them():
    logits = torch.randn(32, 7, dtype=torch.float64)
    targets = torch.rand(32, 7, dtype=torch.float64).softmax(dim=1)
    loss = LabelSmoothing(0.2).loss(F.cross_entropy)
    expected = F.cross_entropy(logits, targets, label_smoothing=0.2)
    torch.testing.assert_close(loss(logits, targets), expected, rtol=1e-12, atol=0)


def test_wraps_any_loss():
    def squared(logits, targets):
        return (logits - targets).square().sum()

    loss = LabelSmoothing(0.5).loss(squared)
    assert loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0])).item() == pytest.approx(0.25**2 * 2)


def test_bfloat16_logits_do_not_round_the_targets():
    seen = []

    def spy(logits, targets):
        seen.append(targets)
        return logits.sum()

    LabelSmoothing(0.1).loss(spy)(torch.randn(4, 10, dtype=torch.bfloat16), torch.arange(4))
    torch.testing.assert_close(seen[0].sum(dim=1), torch.ones(4), rtol=1e-6, atol=0)
    assert seen[0].max().item() == pytest.approx(0.91)
