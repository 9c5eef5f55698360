"""How many threads to begin with, on this machine as it is."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from speedtrain.machine import available_cores
from speedtrain.training.thread_controller import CHECK_EVERY, ThreadController


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
