"""`curve`: the anytime curve, accuracy against budget for several recipes."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from speedtrain.ablation.curve_report import Point, write_curve
from speedtrain.ablation.design import Design, with_labels_of, with_threads
from speedtrain.ablation.engine import make_engine
from speedtrain.ablation.sweep import Source, Sweep, check_counts, run_sweep
from speedtrain.ablation.sweep_labels import load_for_sweep
from speedtrain.config import Config, default_recipe, resolve
from speedtrain.errors import UserError
from speedtrain.run.checks_before_start import check_network
from speedtrain.run.progress import Display


def curve(
    budgets: Sequence[float],
    data: Source | None = None,
    test: Source | None = None,
    *,
    recipes: Sequence[str | Path] | None = None,
    seeds: int = 3,
    engine: str = "local",
    workers: int = 1,
    address: str | None = None,
    out: str | Path = "curve",
    resume: bool = False,
    quiet: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Trains recipes at several budgets: `python -m speedtrain curve`.

    Args:
        budgets: seconds.
        data: training images, as for `train`.
        test: test images, as for `train`.
        recipes: names or paths. Default: auto, or finetune where training starts from given weights.
        seeds: how many seeds. They are 0, 1, 2, …, or begin at `seed`. Default: 3.
        engine: as for `ablate`.
        workers: as for `ablate`.
        address: as for `ablate`.
        out: directory, new or empty. Default: `curve`.
        resume: go on with what is in `out`. Default: no.
        quiet: show no progress. Default: yes.
        options: as for `train`: with_tricks, without, settings, model, …

    Returns:
        A row per recipe and budget: `recipe`, `budget`, `seeds`, `accuracy` (mean), `sd`, `low` and `high` (its 95 %
        interval over seeds, by Student's t), and the means `networks` (at once), `width`, `epochs` and
        `images_per_second`.

    Raises:
        UserError: bad input, before any training.
    """
    if not budgets:
        raise UserError("no budget; say which, as in --budgets 15,30,60")
    check_counts(seeds=seeds)
    first = options.pop("seed", None) or 0
    points: dict[str, Point] = {}
    variants: dict[str, Config] = {}
    for budget in dict.fromkeys(budgets):
        for recipe in dict.fromkeys(recipes or [default_recipe(**options)]):
            config = resolve(recipe=recipe, budget=budget, **options)
            point = Point(Path(recipe).stem, config.budget)
            variant = f"{point.recipe}, {point.budget:g} s"
            if variant in variants:
                raise UserError(f"two recipes are called {point.recipe}: give them other names")
            variants[variant], points[variant] = config, point
    any_config = max(variants.values(), key=lambda config: config.budget)  # which allows the largest images
    loaded = load_for_sweep(variants.values(), any_config, data, test, progress=Display(quiet).reading)
    for config in variants.values():
        check_network(replace(config, device="cpu"), loaded.train)  # trials may run on another machine
    with make_engine(engine, any_config, workers, address) as runner:
        design = with_labels_of(with_threads(Design(variants, ()), runner.threads), loaded)
        sweep = Sweep(design, range(first, first + seeds), loaded)
        write = partial(write_curve, points)
        run_sweep(sweep, Path(out).absolute(), runner, resume=resume, quiet=quiet, write=write, plan_once=False)
    return pd.read_csv(Path(out) / "curve.csv")
