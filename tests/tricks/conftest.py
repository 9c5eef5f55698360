"""A small network, batches for it, and the plain gradient that the tricks wrap."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tricks import Batch, Compute


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def make_network() -> Callable[..., nn.Sequential]:
    """Convolutions, with batch norm or without, and a linear head of 4 classes. Smooth with `smooth`."""

    def make(norm: bool = True, smooth: bool = False) -> nn.Sequential:
        activation = nn.Tanh if smooth else nn.ReLU
        layers: list[nn.Module] = []
        for inputs, outputs, kernel, stride, padding in (3, 8, 3, 1, 1), (8, 6, 2, 2, 0):  # no column is left over
            layers += [nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=not norm)]
            layers += [nn.BatchNorm2d(outputs)] if norm else []
            layers += [activation()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))

    return make


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    def make(count: int = 12, side: int = 8, progress: float = 0.0, step: int = 0) -> Batch:
        return Batch(torch.randn(count, 3, side, side), torch.randint(4, (count,)), progress, step, 4)

    return make


@pytest.fixture
def plain() -> Callable[[nn.Module], Compute]:
    """The gradient of the cross-entropy, as any training loop computes it."""

    def make(model: nn.Module) -> Compute:
        def compute(batch: Batch) -> Tensor:
            model.zero_grad()
            loss = F.cross_entropy(model(batch.images), batch.targets)
            loss.backward()
            return loss.detach()

        return compute

    return make
