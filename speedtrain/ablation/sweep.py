"""A sweep: many trials on an engine, a table that is up to date after every one, and a way to go on after a kill."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from speedtrain.ablation.design import Design
from speedtrain.ablation.engine import Engine
from speedtrain.ablation.metric import score_in_words
from speedtrain.ablation.report import write_tables
from speedtrain.ablation.shared_plan import plan_once_for_all
from speedtrain.ablation.sweep_folder import lock_folder, record_identity, write_images
from speedtrain.ablation.trial import make_trials
from speedtrain.data import Data
from speedtrain.errors import UserError

Source = str | Path | tuple[np.ndarray, np.ndarray]
"""Images by name or path, or as arrays (images uint8 [N, H, W, C], labels int [N])."""


@dataclass
class Sweep:
    """What a sweep trains and compares, independent of the engine.

    Attributes:
        design: the variants and the questions.
        seeds: the same for every variant.
        data: the images to train on and the images to score on.
        subset: training images per class, drawn anew for each seed. None: all, the same for each seed.
        facts: what the reports also show: budget_seconds, design.
        metric: the score that is compared, a key of `METRICS`. Default: accuracy. Not a part of the identity: the same
            trials can be compared by another one.
    """

    design: Design
    seeds: Sequence[int]
    data: Data
    subset: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    metric: str = "accuracy"

    def identity(self) -> dict[str, Any]:
        """JSON values that define this sweep; see `record_identity`."""
        return {
            "variants": {name: asdict(config) for name, config in self.design.variants.items()},
            "comparisons": {question.label: dict(question.weights) for question in self.design.comparisons},
            "seeds": list(self.seeds),
            "subset": self.subset,
            "training images": self.data.train.sha256(),
            "test images": self.data.test.sha256(),
        }


def check_counts(**counts: Any) -> None:
    """Checks that every option, by its name, is a whole number from 1.

    Raises:
        UserError: one is not.
    """
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UserError(f"--{name} must be a whole number from 1, got {count!r}")


def run_sweep(
    sweep: Sweep,
    out: Path,
    engine: Engine,
    *,
    resume: bool,
    quiet: bool,
    write: Callable[..., pd.DataFrame] | None = None,
    plan_once: bool = True,
) -> pd.DataFrame:
    """Runs every trial that has no result yet.

    Args:
        sweep: what to train.
        out: the directory of the sweep, absolute.
        engine: where to train.
        resume: go on with the sweep in `out`.
        quiet: show no progress.
        write: writes the tables after every trial and returns a row per trial. Takes the arguments of `write_tables`
            but for the metric. Default: `write_tables`, by the sweep's metric.
        plan_once: plan once for variants that may share a plan; see `plan_once_for_all`. Default: yes. Otherwise
            every trial plans for itself.

    Returns:
        What `write` returned after the last trial.

    Raises:
        UserError: `out` cannot be used, a plan fails, or a signal from outside ended a trial.
    """
    write_report = write or partial(write_tables, metric=sweep.metric)
    with lock_folder(out):
        record_identity(out, sweep.identity(), resume)
        write_images(out / "data", sweep.data, sweep.seeds, sweep.subset)
        facts = {**sweep.facts, "where": engine.where, "data": sweep.data.train.name, "notes": list(sweep.data.notes)}
        design = sweep.design
        if plan_once:
            design, facts["plans"] = plan_once_for_all(
                design, sweep.data.train, out / "plan.json", engine, sweep.subset
            )
        trials = make_trials(design, sweep.seeds, out, sweep.subset is not None)
        order = {(trial.variant, trial.config.seed): position for position, trial in enumerate(trials)}
        rows = [row for trial in trials if (row := trial.result()) is not None]
        missing = [trial for trial in trials if trial.result() is None]
        remaining = {(trial.variant, trial.config.seed): trial.config.budget for trial in missing}

        def update() -> pd.DataFrame:
            return write_report(out, rows, design.comparisons, facts, len(trials))

        table = update()
        started, finished_seconds = time.monotonic(), 0.0
        console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
        columns = (BarColumn(30), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
        hidden = quiet or not console.is_terminal
        with ExitStack() as stack, Progress(*columns, console=console, transient=True, disable=hidden) as bar:
            task = bar.add_task("trials", total=len(trials), completed=len(rows))
            for row in stack.enter_context(closing(engine.run(missing))):
                rows.append(row)
                rows.sort(key=lambda row: order[row["variant"], row["seed"]])
                finished_seconds += remaining.pop((row["variant"], row["seed"]))
                # in proportion to the budgets, since trials may differ in them
                left = clock((time.monotonic() - started) * sum(remaining.values()) / finished_seconds)
                bar.update(task, completed=len(rows), description=f"{left} left")
                outcome = row["error"] or score_in_words(row, sweep.metric)
                line = f"{len(rows)}/{len(trials)}  {row['variant']}, seed {row['seed']}: {outcome}  ({left} left)"
                console.print(line, markup=False)
                table = update()
    return table


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
