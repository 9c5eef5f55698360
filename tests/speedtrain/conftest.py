"""What several of the application's tests need."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from speedtrain.machine import available_cores


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(available_cores())]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


@pytest.fixture
def busy() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """`with busy():` other programs want every core."""
    return _busy
