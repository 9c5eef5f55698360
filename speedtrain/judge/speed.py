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
