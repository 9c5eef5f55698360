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


TRAIN = ("speedtrain/ablation", "speedtrain/bench", "speedtrain/judge", "speedtrain/run", "speedtrain/submission")
"""Folders of tests whose programs train, or are watched, by the clock."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What goes by the clock runs in one of pytest's processes, one after another, and everything else in the other."""
    here = Path(__file__).parent
    for item in items:
        path = item.path.relative_to(here).as_posix()
        starts = path.startswith((*TRAIN, "timing/", "test_doc"))
        if starts or {"warm_python", "warm_processes", "busy"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group("by the clock"))


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
