"""Measures how fast this machine is at the moment, by a short probe of matrix products.

This file is also a program, so that the probe runs on the cores of a submission: `python machine_speed.py`.
"""

import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

SIDE = 512
SECONDS = 0.3
NUM_PROBES = 7
RECOVERY_SECONDS = 60.0
"""How long is waited for a machine that is not as fast as at the beginning."""
PAUSE = 2.0
"""Seconds between two probes while it is waited for."""


def measure(cpus: Sequence[int]) -> float:
    """GFLOP/s of float32 matrix products on these cores, at the moment.

    Raises:
        UserError: the probe failed.
    """
    command = ["taskset", "--cpu-list", ",".join(map(str, cpus)), sys.executable, __file__]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        from speedtrain.errors import UserError  # not at the top: the program finds numpy alone

        problem = " ".join(done.stderr.split())[-200:]
        raise UserError(
            f"this machine's speed cannot be measured ({problem}): mend the cause, then go on with judge --resume"
        )
    return float(done.stdout)


def is_off(now: float, reference: float, drift: float) -> bool:
    """Whether a speed differs from a reference by more than `drift`, a part of the reference."""
    return abs(now / reference - 1) > drift


def recovered(cpus: Sequence[int], reference: float | None, drift: float) -> tuple[float, float]:
    """Waits until the machine is as fast as at the beginning, or for `RECOVERY_SECONDS`.

    What a run leaves behind, such as memory that the kernel still frees, must not slow down the next one.

    Args:
        reference: the speed at the beginning, GFLOP/s; None takes the machine as it is.
        drift: the largest difference, as a part of the reference.

    Returns:
        The speed at last, GFLOP/s, and the seconds that were waited.

    Raises:
        UserError: the probe failed.
    """
    started = time.monotonic()
    while True:
        now, waited = measure(cpus), time.monotonic() - started
        if reference is None or not is_off(now, reference, drift) or waited >= RECOVERY_SECONDS:
            return now, waited
        time.sleep(PAUSE)


def reference_speed(cpus: Sequence[int]) -> tuple[float, float]:
    """The speed that later measurements are compared with.

    Returns:
        The median of several probes, GFLOP/s, and the range of the probes without the fastest and the slowest, as a
        part of the median: a few percent on an idle machine.

    Raises:
        UserError: a probe failed.
    """
    rates = sorted(measure(cpus) for _ in range(NUM_PROBES))
    median = float(np.median(rates))
    return median, (rates[-2] - rates[1]) / median


def _probe() -> float:
    matrix = np.ones((SIDE, SIDE), np.float32)
    matrix @ matrix
    rates = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        started = time.monotonic()
        for _ in range(10):
            matrix @ matrix
        rates.append(10 * 2 * SIDE**3 / (time.monotonic() - started) / 1e9)
    return float(np.median(rates))


if __name__ == "__main__":
    print(_probe())
