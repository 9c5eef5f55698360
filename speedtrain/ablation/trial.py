"""One trial of a sweep: a real training run in a process of its own, and its result on disk."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from speedtrain.ablation.design import Design
from speedtrain.config import Config
from speedtrain.files import write_atomic
from speedtrain.machine import bind_to_cores
from speedtrain.run.result import read_result
from speedtrain.training.process import last_line, python_environment
from timing import ExitStatus, Guarded

GRACE = 1.0
"""Seconds that a trial may take to end when its sweep ends. Short: an unfinished trial is trained again anyway."""

Row = dict[str, Any]
"""A trial's result: variant, seed, status, accuracy, balanced_accuracy, images_per_second, epochs, width, seconds,
threads, error, run. The accuracies are None where they are unknown."""


@dataclass(frozen=True)
class Trial:
    """One run.

    Attributes:
        variant: the name of the variant that it trains.
        folder: its own folder. `run/` in it is the run directory. `done.json` holds the result once the trial is over.
        config: the complete configuration, with the seed and the paths of the images.
    """

    variant: str
    folder: Path
    config: Config

    def result(self) -> Row | None:
        """The result, or None where the trial has not started or was cut short."""
        try:
            row = json.loads((self.folder / "done.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return {"balanced_accuracy": None, **row}  # an earlier version did not keep it

    def save_result(self, row: Row) -> Row:
        """Writes the result; the trial is never run again. Returns the result."""
        write_atomic(self.folder / "done.json", json.dumps(row, indent=2, ensure_ascii=False).encode())
        return row


def make_trials(design: Design, seeds: Sequence[int], out: Path, subsets: bool = False) -> list[Trial]:
    """Every variant with every seed, ordered by seed.

    In this order, an unfinished sweep already compares all variants, and slow changes of the machine's speed affect
    all of them alike.

    Args:
        design: the variants.
        seeds: the seeds that every variant is trained with.
        out: the directory of the sweep.
        subsets: whether each seed has training images of its own. Default: all seeds share them.
    """
    trials = []
    for seed in seeds:
        for number, (name, config) in enumerate(design.variants.items()):
            short = re.sub(r"[^\w.=+-]+", "-", name)[:60]
            train = f"train-{seed}.npz" if subsets else "train.npz"
            complete = replace(config.for_prepared(out / "data" / train, out / "data" / "test.npz"), seed=seed)
            trials.append(Trial(name, out / "trials" / f"{number:03}-{short}" / f"seed-{seed}", complete))
    return trials


def run_trial(
    trial: Trial, cores: Sequence[int] | None = None, on_start: Callable[[Guarded], None] | None = None
) -> Row:
    """Trains one trial from the start. What an earlier attempt left in its folder is deleted.

    Args:
        trial: what to train.
        cores: the CPU cores that it may use. Default: all.
        on_start: called with the process, so that the caller can end it early. Default: nothing.

    Returns:
        Its result, not saved yet. The `status` is `interrupted` where the process was ended early.
    """
    shutil.rmtree(trial.folder, ignore_errors=True)
    trial.folder.mkdir(parents=True)
    recipe, run = trial.folder / "recipe.yaml", trial.folder / "run"
    recipe.write_text(trial.config.as_yaml(), encoding="utf-8")
    command = [sys.executable, "-m", "speedtrain", "train", "--recipe", str(recipe), "--out", str(run), "--quiet"]
    # The run keeps its own budget. This limit ends a run that hangs before or after training.
    limit = 2 * trial.config.budget + 900
    with (
        open(trial.folder / "log.txt", "wb") as log,
        Guarded(command, limit, grace=GRACE, env=python_environment(), output=log) as process,
    ):
        if cores is not None:
            bind_to_cores(process.pid, cores)
        if on_start is not None:
            on_start(process)
        exit_status = process.wait()
    return _read_result(trial, exit_status)


def _read_result(trial: Trial, exit_status: ExitStatus) -> Row:
    run, row = trial.folder / "run", failed_row(trial, None)
    if (run / "result.json").exists():
        result = read_result(run / "result.json")
        copied = ("status", "accuracy", "balanced_accuracy", "images_per_second", "epochs", "error")
        row |= {key: result.get(key) for key in copied}
        row["seconds"] = result.get("wall_seconds")
        networks = result["plan"].get("members", [result["plan"]])
        widths = [network["width"] for network in networks if network["width"] is not None]
        row["width"], row["networks"] = sum(widths) / len(widths) if widths else None, len(networks)
    elif exit_status.reason in ("interrupted", "abandoned"):
        row["status"] = "interrupted"
    if row["accuracy"] is None and not row["error"]:
        ended = f"the run ended ({exit_status.reason}, exit status {exit_status.returncode})"
        row["error"] = last_line(trial.folder / "log.txt") or ended
    return row


def failed_row(trial: Trial, error: str | None) -> Row:
    """The result of a trial that failed before it wrote a result of its own.

    Args:
        trial: the trial that failed.
        error: why, in one line.
    """
    measured = ("accuracy", "balanced_accuracy", "images_per_second", "epochs", "width", "networks", "seconds")
    unknown = dict.fromkeys(measured)
    row: Row = {"variant": trial.variant, "seed": trial.config.seed, "status": "failed", **unknown}
    run = str(Path(*trial.folder.parts[-3:], "run"))
    return {**row, "threads": trial.config.threads, "error": error, "run": run}
