"""How fast this machine is at the moment, by a short matrix-product probe.

Also a program of its own, so that the probe runs on the cores that a submission gets: `python speed.py`.
"""

import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

SIDE = 512
SECONDS = 0.3
NUM_PROBES = 7


def measure(cpus: Sequence[int]) -> float:
    """GFLOP/s of float32 matrix products on these cores, at the moment.

    Raises:
        OSError: the probe could not run.
    """
    command = ["taskset", "--cpu-list", ",".join(map(str, cpus)), sys.executable, __file__]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"the speed probe failed: {done.stderr.strip()[-200:]}")
    return float(done.stdout)


def settle(cpus: Sequence[int]) -> tuple[float, float]:
    """The speed to compare others with, GFLOP/s, the median of several probes; and by which part of it they vary,
    the fastest and the slowest left out: an idle machine gives a few percent."""
    rates = sorted(measure(cpus) for _ in range(NUM_PROBES))
    middle = float(np.median(rates))
    return middle, (rates[-2] - rates[1]) / middle


def _probe() -> float:
    matrix = np.ones((SIDE, SIDE), np.float32)
    matrix @ matrix
    rates = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        begun = time.monotonic()
        for _ in range(10):
            matrix @ matrix
        rates.append(10 * 2 * SIDE**3 / (time.monotonic() - begun) / 1e9)
    return float(np.median(rates))


if __name__ == "__main__":
    print(_probe())
