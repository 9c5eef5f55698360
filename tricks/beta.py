"""Samples of a symmetric Beta distribution."""

import torch
from torch import Tensor
from torch.distributions import Gamma


def sample_beta(alpha: float, count: int, device: torch.device) -> Tensor:
    """λ ~ Beta(α, α), float32 [count], for any α above 0.

    λ = A / (A + B) with A, B ~ Gamma(α). For a small α both underflow, and λ would be 1/2. So this computes their
    logarithms: log Gamma(α) is distributed as log Gamma(α + 1) + log(U) / α, with U uniform (Marsaglia and Tsang, A
    Simple Method for Generating Gamma Variables, 2000, section 6).
    """
    shape = torch.full((2, count), alpha + 1, dtype=torch.float64, device=device)
    gamma = Gamma(shape, torch.ones_like(shape), validate_args=False).sample()  # validation would wait for the device
    uniform = torch.rand_like(shape).clamp(min=1e-300)
    first, second = gamma.log() + uniform.log() / alpha
    return (first - second).sigmoid().float()
