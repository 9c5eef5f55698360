import pytest
import torch
from scipy import stats

from tricks.beta import sample_beta

COUNT = 20_000
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("alpha", [1e-6, 0.001, 0.01, 0.1, 0.4, 1.0, 2.0, 50.0])
def test_the_distribution_is_beta(alpha, device):
    samples = sample_beta(alpha, COUNT, torch.device(device)).cpu()
    assert samples.dtype == torch.float32
    assert ((samples >= 0) & (samples <= 1)).all()
    for point in 0.001, 0.1, 0.4, 0.5, 0.6, 0.9, 0.999:
        expected = stats.beta(alpha, alpha).cdf(point)
        deviation = (expected * (1 - expected) / COUNT) ** 0.5
        assert (samples < point).double().mean().item() == pytest.approx(expected, abs=4.5 * deviation + 1e-9)


def test_the_global_seed_decides():
    samples = []
    for seed in 1, 1, 2:
        torch.manual_seed(seed)
        samples.append(sample_beta(0.2, 5, torch.device("cpu")))
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])
