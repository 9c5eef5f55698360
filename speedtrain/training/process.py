"""How a process that trains is started: its command and its environment."""

import os
import sys
from pathlib import Path

from speedtrain.config import Config

MALLOC_SETTINGS = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592"
"""GLIBC_TUNABLES of a process that trains: keep freed memory, and use huge pages. Every step allocates the same
activations again; otherwise the kernel takes them back and clears them each time (7 % of a step on a CPU). Other C
libraries ignore it."""


def worker_command(folder: Path) -> list[str]:
    """The command that does the job in a folder."""
    # -P: a file called timing.py in the user's current folder is not ours
    return [sys.executable, "-P", "-m", "speedtrain.training.worker", str(folder)]


def python_environment() -> dict[str, str]:
    """This process's environment, in which a child finds `speedtrain` where this process found it."""
    here = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))}


def last_line(log: Path) -> str | None:
    """The last line that a process wrote to its log; None where it wrote none."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else None


def worker_environment(config: Config) -> dict[str, str]:
    """The environment of a process that trains with the configuration's number of threads."""
    return {
        **python_environment(),
        "OMP_NUM_THREADS": str(config.threads),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS repeats its results bit for bit only with this
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", MALLOC_SETTINGS),
    }
