"""Sweeps of real runs in real processes, and real kills."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from speedtrain import UserError, ablate
from speedtrain.cli import main
from speedtrain.machine import available_cores

SMALL = ["--data", "digits", "--set", "width=8", "--set", "precision=fp32", "--set", "batch_size=64"]
TWO_TRIALS = ["ablate", "--budget", "8", "--seeds", "1", "--tricks", "flip", *SMALL]

SETTINGS = {"width": 8, "precision": "fp32", "batch_size": 64}
TOLD = {"budget": 8, "data": "digits", "tricks": ["flip"], "seeds": 1, "settings": SETTINGS}


def start(out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "speedtrain", *TWO_TRIALS, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def wait_until(there: Path, process: subprocess.Popen) -> None:
    end = time.monotonic() + 200
    while not there.exists():
        assert process.poll() is None, process.communicate()[0].decode()
        assert time.monotonic() < end
        time.sleep(0.05)


def processes_of(out: Path) -> list[int]:
    """Everything that trains, or has a file of, a trial of this sweep."""
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


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A sweep killed in its second trial and gone on with; and when its first trial had been done."""
    out = tmp_path_factory.mktemp("sweeps") / "sweep"
    sweep = start(out)
    first, second = out / "trials/000-reference/seed-0", out / "trials/001-without-flip/seed-0"
    wait_until(second / "run" / "config.yaml", sweep)
    done = (first / "done.json").stat().st_mtime

    with pytest.raises(UserError, match="another sweep"):  # while the first is on
        ablate(**TOLD, out=out, resume=True)

    os.kill(sweep.pid, signal.SIGKILL)
    sweep.wait()
    end = time.monotonic() + 10
    while processes_of(out) and time.monotonic() < end:
        time.sleep(0.05)
    assert not processes_of(out)
    assert not (second / "done.json").exists()

    with pytest.raises(UserError, match="--resume"):
        ablate(**TOLD, out=out)
    with pytest.raises(UserError, match="variants is not what it was"):
        ablate(**{**TOLD, "settings": {**SETTINGS, "lr": 0.05}}, out=out, resume=True)
    assert main([*TWO_TRIALS, "--out", str(out), "--resume"]) == 0
    return out, done


def test_a_killed_sweep_goes_on_where_it_was(killed_and_resumed: tuple[Path, float]) -> None:
    out, done = killed_and_resumed
    assert (out / "trials/000-reference/seed-0/done.json").stat().st_mtime == done
    table = pd.read_csv(out / "ablation.csv")
    assert list(table["variant"]) == ["reference", "without flip"]
    assert table["accuracy"].between(0, 1).all()
    for row in table.to_dict("records"):
        result = json.loads((out / str(row["run"]) / "result.json").read_text())
        assert result["accuracy"] == pytest.approx(row["accuracy"])
        assert result["wall_seconds"] <= 8
        assert ("flip" in result["tricks"]) == (row["variant"] == "reference")
        assert result["seed"] == 0
    assert not processes_of(out)


def test_a_finished_sweep_is_read_again_without_training(killed_and_resumed: tuple[Path, float]) -> None:
    out, done = killed_and_resumed
    table = ablate(**TOLD, out=out, resume=True)
    assert len(table) == 2
    assert table.attrs["comparisons"][0]["verdict"] == "too few seeds to conclude"
    assert (out / "trials/000-reference/seed-0/done.json").stat().st_mtime == done


def test_failed_trials_are_kept_and_the_sweep_goes_on(tmp_path: Path) -> None:
    """A tenth of a second is too short for any step: every trial fails, says why, and is not run again."""
    told = {**TOLD, "budget": 0.1, "workers": min(2, available_cores())}
    table = ablate(**told, out=tmp_path / "sweep")
    assert len(table) == 2
    assert table["error"].str.contains("too small").all()
    done = tmp_path / "sweep/trials/000-reference/seed-0/done.json"
    written = done.stat().st_mtime
    ablate(**told, out=tmp_path / "sweep", resume=True)
    assert done.stat().st_mtime == written


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        ablate(10, "digits", tricks=["flip"], seeds=1, out=tmp_path)
