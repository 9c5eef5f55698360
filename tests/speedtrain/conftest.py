"""What several of the application's tests need."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

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


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Ray cluster on this machine, without nodes to work on yet."""
    import ray
    from ray.cluster_utils import Cluster

    # a node that refuses five checks is dead: here within seconds, by default within a quarter of a minute
    checks = {"health_check_period_ms": 500, "health_check_failure_threshold": 5}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": checks}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    ray.shutdown()
    made.shutdown()
