"""`ablate`: trains variants of a recipe with the same seeds, and compares them."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from speedtrain.ablation.design import Design, make_design, with_labels_of, with_side, with_threads
from speedtrain.ablation.engine import Engine, make_engine
from speedtrain.ablation.metric import check_metric
from speedtrain.ablation.sweep import Source, Sweep, check_counts, clock, run_sweep
from speedtrain.ablation.sweep_labels import load_for_sweep
from speedtrain.data import Images
from speedtrain.errors import UserError
from speedtrain.run.checks_before_start import check_network
from speedtrain.run.progress import Display

SECONDS_AROUND_BUDGET = 15.0
"""Estimate of what a trial takes beside its budget, to start and to score."""


def ablate(
    budget: float | None = None,
    data: Source | None = None,
    test: Source | None = None,
    *,
    design: str = "drop-one",
    tricks: Sequence[str] | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
    seeds: int = 5,
    subset: int | None = None,
    metric: str = "accuracy",
    engine: str = "local",
    workers: int = 1,
    address: str | None = None,
    out: str | Path = "ablation",
    resume: bool = False,
    yes: bool = False,
    dry_run: bool = False,
    quiet: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Trains variants of a recipe with the same seeds and compares them: `python -m speedtrain ablate`.

    Args:
        budget: seconds of every trial. Default: the recipe's.
        data: training images, as for `train`.
        test: test images, as for `train`.
        design: which sets of tricks to train: drop-one (the default), add-one, pairs or all-subsets; see `KINDS` in
            `design_kinds.py`.
        tricks: the tricks to vary. Default: all tricks of the recipe.
        vary: hyperparameter → values, crossed with the design. Default: none.
        seeds: how many seeds. They are 0, 1, 2, …, or begin at `seed`. Default: 5.
        subset: training images per class, drawn anew for each seed. Default: all images, the same for each seed.
        metric: the score to compare by: `accuracy` (the default), or `balanced_accuracy`, in which every class counts
            the same. A finished sweep can be compared by the other one with `resume`.
        engine: `local` (the default), or `ray`.
        workers: trials at a time on this machine; they divide its cores. Default: 1.
        address: of the Ray cluster, as for `ray.init`. Default: $RAY_ADDRESS, or a new cluster of this machine.
        out: directory of the sweep, new or empty. Default: `ablation`.
        resume: go on with the sweep in `out`. Default: no.
        yes: accept a design of very many trials. Default: no.
        dry_run: print the trials and their total time, and train nothing. Default: no.
        quiet: show no progress. Default: yes.
        options: as for `train`: recipe, with_tricks, without, settings, model, …

    Returns:
        A row per trial (`variant`, `seed`, `status`, `accuracy`, `balanced_accuracy`, `images_per_second`, `epochs`,
        `width`, `seconds`, `threads`, `error`, `run`). Its `attrs` hold `comparisons`, a list of dicts (see `compare`),
        and `out`.

    Raises:
        UserError: bad input, before any training.
    """
    check_counts(seeds=seeds)
    check_metric(metric)
    first = options.pop("seed", None) or 0
    planned = make_design(design, tricks, vary, seeds=seeds, many=yes, budget=budget, **options)
    any_config = max(planned.variants.values(), key=lambda config: config.named_side or 0)
    loaded = load_for_sweep(
        planned.variants.values(),
        any_config,
        data,
        test,
        all_images=subset is not None,
        progress=Display(quiet).reading,
    )
    planned = with_labels_of(with_side(planned, loaded.side), loaded)
    _check_subset(loaded.train, subset)
    for config in planned.variants.values():
        check_network(replace(config, device="cpu"), loaded.train)  # trials may run on another machine
    with make_engine(engine, any_config, workers, address) as runner:
        planned = with_threads(planned, runner.threads)
        if dry_run:
            _print_trials(planned, seeds, runner)
            return pd.DataFrame(columns=["variant", "seed"])
        facts = {"budget_seconds": budget, "design": design}
        sweep = Sweep(planned, range(first, first + seeds), loaded, subset, facts, metric)
        return run_sweep(sweep, Path(out).absolute(), runner, resume=resume, quiet=quiet)


def _check_subset(train: Images, subset: int | None) -> None:
    smallest = int(np.bincount(train.labels).min())
    if subset is not None and not 0 < subset <= smallest:
        raise UserError(f"--subset {subset}: must be from 1 to {smallest}, the images of the smallest class")


def _print_trials(design: Design, seeds: int, engine: Engine) -> None:
    for name, config in design.variants.items():
        tricks = ", ".join(config.tricks) or "no trick"
        print(f"{seeds} × {name}: {config.budget:g} s, {config.threads} threads, {tricks}")
    print(f"{len(design.comparisons)} comparisons: {', '.join(question.label for question in design.comparisons)}")
    number = len(design.variants) * seeds
    budgets = seeds * sum(config.budget for config in design.variants.values())
    total = clock((budgets + SECONDS_AROUND_BUDGET * number) / engine.at_once)
    print(f"{number} trials, {engine.where}: {total} (budgets, and about {SECONDS_AROUND_BUDGET:g} s around each)")


def print_answers(table: pd.DataFrame) -> None:
    """Prints the tables of `ablation.md`, for the terminal."""
    sys.stdout.write(Path(table.attrs["out"], "ablation.md").read_text(encoding="utf-8"))
