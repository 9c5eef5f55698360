"""What tests of all packages may use."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import warm

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

os.environ["SPEEDTRAIN_CACHE"] = "off"  # no test reads or fills the cache of the person who runs it

BY_THE_CLOCK = (
    "speedtrain/bench/",
    "speedtrain/run/test_earlier_runs",
    "speedtrain/run/test_run",
    "speedtrain/run/test_starting_weights",
    "speedtrain/test_cli.py::test_a_network_that_fails_here",
    "speedtrain/test_thread_controller",
    "test_doc",
    "timing/",
)
"""Where tests are that start training with a budget of seconds, or measure time."""

BESIDE_THEM = (
    "speedtrain/ablation/test_curve",
    "speedtrain/ablation/test_sweep",
    "speedtrain/ablation/test_tune",
    "speedtrain/run/test_annotated_run",
    "speedtrain/ablation/test_ray_engine",
    "speedtrain/judge/test_attacks",
    "speedtrain/judge/test_cluster",
    "speedtrain/judge/test_competition",
    "speedtrain/judge/test_weight_copies",
    "speedtrain/judge/test_judging",
    "speedtrain/judge/test_system_call_filter",
    "speedtrain/run/test_members_run",
    "speedtrain/run/test_notebook",
    "speedtrain/submission/",
    "speedtrain/suspects/",
)
"""More of them, with time to spare: what the judge runs, mostly on one core until a deadline, and trainings that have
more time than they need."""


ALONE = (
    *("speedtrain/bench/", "speedtrain/run/test_run", "speedtrain/test_thread_controller"),
    *("test_documented_commands", "timing/"),
)
"""Of those by the clock, what measures, or gives no second more than needed: last, when those beside them are over."""


ON_ONE_CORE = (
    "speedtrain/ablation/test_curve",
    "speedtrain/ablation/test_sweep",
    "speedtrain/run/test_annotated_run",
    "speedtrain/run/test_earlier_runs",
    "speedtrain/run/test_notebook",
    "speedtrain/run/test_run",
    "speedtrain/run/test_starting_weights",
    "speedtrain/suspects/",
)
"""Those that train on one core where there are several: two threads that wait for each other on a busy machine take
many times as long as one."""


def group_of(nodeid: str) -> str | None:
    """Of tests that must not run at the same time as each other; None for those that only compute."""
    name = nodeid.removeprefix("tests/")
    return "clock" if name.startswith(BY_THE_CLOCK) else "beside" if name.startswith(BESIDE_THEM) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.nodeid.removeprefix("tests/").startswith(ALONE))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `pytest -n 3`, one process runs most of what goes by the clock, one the rest of that, and one what only
    computes, in the time that the others leave. With `-n 2`, what only computes comes after them.

    The largest group begins first, single tests last. `--dist loadgroup` does nothing in pytest 9.2: pytest-xdist 3.8
    writes the group to an attribute of a test that is gone.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid) or nodeid

    return Groups(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Beside another process, what only computes takes the time that the other leaves, in one thread.

    And what uses fixtures that are for tests by the clock must be where those are.
    """
    group, names = group_of(item.nodeid), set(getattr(item, "fixturenames", ()))
    if hasattr(os, "sched_setaffinity") and "PYTEST_XDIST_WORKER" in os.environ:
        alone = item.nodeid.removeprefix("tests/").startswith(ON_ONE_CORE) and "busy" not in names
        one = CORES[:1] if group == "clock" else CORES[-1:]  # the two groups run at the same time
        os.sched_setaffinity(0, one if alone else CORES)
    if {"warm_python", "busy"} & names and group is None:
        pytest.fail("it goes by the clock: name it in BY_THE_CLOCK of tests/conftest.py", pytrace=False)
    if "PYTEST_XDIST_WORKER" in os.environ and group is None:
        import torch

        os.setpriority(os.PRIO_PROCESS, 0, 19)
        if hasattr(os, "SCHED_IDLE"):  # the least of all: it never keeps a test by the clock waiting
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        torch.set_num_threads(1)


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
