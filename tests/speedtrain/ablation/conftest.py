"""One sweep of real runs, killed and resumed, that the tests of sweeps and of curves share."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import warm

from speedtrain import UserError, curve
from speedtrain.cli import main
from speedtrain.config import resolve
from speedtrain.data import load_data
from speedtrain.machine import available_cores

TOO_SHORT, LONG_ENOUGH = 0.1, 12
RECIPE = "width: 8\nbatch_size: 64\nprecision: fp32\n"


@dataclass
class Resumed:
    """A curve of two recipes at two budgets: killed when a trial was in training, then resumed to its end.

    Attributes:
        out: its directory.
        arguments: of `curve`.
        kept: when each trial that was done before the kill had been written.
        processes: ids of the processes that the kill left behind.
    """

    out: Path
    arguments: dict[str, Any]
    kept: dict[Path, float]
    processes: list[int]


def start(command: list[str], warm_python: str) -> subprocess.Popen:
    """Starts `python -m speedtrain`, warm, in a process group of its own."""
    words = warm.through(warm_python, "speedtrain", *command)
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def wait_until(happened: Callable[[], Any], process: subprocess.Popen) -> None:
    """Waits while the process runs."""
    end = time.monotonic() + 200
    while not happened():
        assert process.poll() is None, process.communicate()[0].decode()
        assert time.monotonic() < end
        time.sleep(0.05)


def kill(process: subprocess.Popen) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def processes_of(out: Path) -> list[int]:
    """Everything that trains a trial of this sweep, or writes to its log."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace")
                log = os.readlink(entry / "fd" / "1")
            except OSError:
                continue
            if str(out / "trials") in words or log.startswith(str(out / "trials")):
                found.append(int(entry.name))
    return found


@pytest.fixture(scope="session")
def resumed(warm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    with warm.processes(warm_python):
        return killed_and_resumed(warm_python, tmp_path_factory)


def killed_and_resumed(warm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    folder = tmp_path_factory.mktemp("sweeps")
    out, plain, bare = folder / "sweep", folder / "plain.yaml", folder / "bare.yaml"
    plain.write_text(f"{RECIPE}tricks: {{flip: {{}}}}\n")
    bare.write_text(RECIPE)
    workers = min(2, available_cores())
    command = ["curve", "--data", "digits", "--budgets", f"{TOO_SHORT},{LONG_ENOUGH}", "--seeds", "1"]
    command += ["--out", str(out)]
    command += ["--recipes", f"{plain},{bare}", "--workers", str(workers)]
    arguments: dict[str, Any] = {"budgets": [TOO_SHORT, LONG_ENOUGH], "data": "digits", "recipes": [plain, bare]}
    arguments |= {"seeds": 1, "workers": workers, "out": out}

    resolve(budget=9), load_data("digits")  # imports now, for what must happen while a trial runs
    sweep = start(command, warm_python)
    cut_short = out / f"trials/002-plain-{LONG_ENOUGH}-s/seed-0"
    wait_until((cut_short / "run" / "config.yaml").exists, sweep)
    with pytest.raises(UserError, match="another sweep"):  # while the first one runs
        curve(**arguments, resume=True)
    kept = {path: path.stat().st_mtime for path in out.glob("trials/*/*/done.json")}
    kill(sweep)
    end = time.monotonic() + 10
    while processes_of(out) and time.monotonic() < end:
        time.sleep(0.05)
    left_behind = processes_of(out)
    assert not (cut_short / "done.json").exists()

    with pytest.raises(UserError, match="--resume"):
        curve(**arguments)
    with pytest.raises(UserError, match="variants is not what it was"):
        curve(**arguments, settings={"lr": 0.05}, resume=True)
    assert main([*command, "--resume"]) == 0
    return Resumed(out, arguments, kept, left_behind)
