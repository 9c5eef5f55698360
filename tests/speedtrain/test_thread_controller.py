"""How many threads to begin with, on this machine as it is."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from speedtrain.machine import available_cores
from speedtrain.model.ensemble import Member
from speedtrain.model.inference import Predictor
from speedtrain.network.classifier import Classifier
from speedtrain.thread_controller import CHECK_EVERY, ThreadController


def test_an_instant_tells_nothing_of_the_load() -> None:
    """The kernel counts hundredths of a second: over a few of them a free machine looks busy."""
    assert [ThreadController(3).initial() for _ in range(20)] == [3] * 20


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="only Linux tells who waits for a core")
def test_it_does_not_begin_on_cores_that_others_use(busy: Callable[[], AbstractContextManager]) -> None:
    with busy():
        time.sleep(0.3)
        controller = ThreadController(available_cores())
        time.sleep(CHECK_EVERY)
        assert controller.initial() == 1


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="only Linux tells who waits for a core")
@pytest.mark.skipif(available_cores() < 2, reason="one core has no threads to spare")
def test_predictions_leave_the_cores_that_others_use(busy: Callable[[], AbstractContextManager]) -> None:
    used: list[int] = []

    class Watched(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            used.append(torch.get_num_threads())
            time.sleep(0.01)
            return (images @ images.mT).mean((1, 2, 3))[:, None].expand(-1, 2)

    before = torch.get_num_threads()
    predictor = Predictor([Member(Classifier(Watched()))], torch.device("cpu"), exact=True, batch_size=8)
    with busy():
        end = time.monotonic() + 20
        while min(used, default=99) > 1 and time.monotonic() < end:
            predictor(np.zeros((400, 32, 32, 3), np.uint8))
    assert used[0] == before
    assert min(used) == 1
    assert torch.get_num_threads() == before
