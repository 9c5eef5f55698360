"""What tests of all packages may use."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import warm

os.environ["SPEEDTRAIN_CACHE"] = "off"  # no test reads or fills the cache of the person who runs it


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Python that has imported already what training needs; see `warm`."""
    address = str(tmp_path_factory.mktemp("warm") / "socket")
    server = subprocess.Popen([sys.executable, warm.__file__, "serve", address], stdin=subprocess.PIPE)
    end = time.monotonic() + 120
    while not Path(address).exists():
        assert server.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    yield address
    server.communicate()


@pytest.fixture
def warm_processes(warm_python: str) -> Iterator[None]:
    """Processes that train start warm in this test: a budget of three seconds is one of eight."""
    with warm.processes(warm_python):
        yield
