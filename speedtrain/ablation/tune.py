"""`tune`: searches hyperparameters on a holdout of the training images, and confirms the winner with fresh seeds."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from speedtrain.ablation.design import Comparison, Design, with_labels_of, with_side, with_threads
from speedtrain.ablation.engine import Engine, make_engine
from speedtrain.ablation.metric import METRICS, check_metric
from speedtrain.ablation.optuna_search import Search, require_optuna
from speedtrain.ablation.search_space import make_search_space
from speedtrain.ablation.shared_plan import plan_once_for_all
from speedtrain.ablation.sweep import Source, Sweep, check_counts, run_sweep
from speedtrain.ablation.sweep_folder import lock_folder, record_identity, write_images
from speedtrain.ablation.sweep_labels import load_for_sweep, with_labels
from speedtrain.ablation.trial import Trial
from speedtrain.ablation.tune_report import recipe_text, write_search
from speedtrain.config import Config, default_recipe, resolve
from speedtrain.data import Data
from speedtrain.data.splits import hold_out
from speedtrain.errors import UserError
from speedtrain.files import write_atomic
from speedtrain.run.checks_before_start import check_network
from speedtrain.run.progress import Display

FIRST_FRESH_SEED = 1000
"""The first seed of the confirmation, far from the seeds of the search."""


def tune(
    budget: float | None = None,
    data: Source | None = None,
    test: Source | None = None,
    *,
    search: Mapping[str, str | Sequence[Any]],
    trials: int = 40,
    seeds: int = 1,
    confirm: int = 5,
    metric: str = "accuracy",
    engine: str = "local",
    workers: int = 1,
    address: str | None = None,
    out: str | Path = "tuning",
    resume: bool = False,
    quiet: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Searches hyperparameters by Optuna's TPE sampler: `python -m speedtrain tune`.

    The search measures its metric on a fifth of the training images, held out, and never on `test`. The winner is
    written as a recipe. Then it is compared with the recipe that the search began from: with fresh seeds, on all
    training images, scored on `test`. Without `test`, both are scored on images that the search has not seen.

    Args:
        budget: seconds of every run. Default: the recipe's.
        data: training images, as for `train`.
        test: test images, as for `train`.
        search: hyperparameter → the values to search: `0.1..0.5`, `log:0.01..0.5`, `a,b,c`, or a list of choices.
        trials: how many settings to try. Default: 40.
        seeds: runs per setting; their mean is its score. Optuna's median pruner may give up a setting between
            them. Default: 1.
        confirm: seeds of the confirmation. Default: 5.
        metric: the score to search by, and to compare the winner by: `accuracy` (the default), or `balanced_accuracy`,
            in which every class counts the same.
        engine: as for `ablate`.
        workers: as for `ablate`.
        address: as for `ablate`.
        out: directory, new or empty. Default: `tuning`.
        resume: go on with what is in `out`. Default: no.
        quiet: show no progress. Default: yes.
        options: as for `train`: recipe, with_tricks, without, settings, model, …

    Returns:
        A row per setting: `number`, `state`, the metric under its name, `runs`, a column per hyperparameter, and
        `error`. Its `attrs` hold `winner`, the path of the recipe, `confirmation`, the comparison's dict (see
        `ablate`), `metric`, and `out`.

    Raises:
        UserError: bad input, before any training; Optuna is not installed; or no run could be scored.
    """
    require_optuna()
    check_counts(trials=trials, seeds=seeds, confirm=confirm)
    check_metric(metric)
    first = options.pop("seed", None) or 0
    options["recipe"] = options.get("recipe") or default_recipe(**options)  # the same for all settings
    recipe = _Recipe(budget, dict(options.pop("settings", None) or {}), options)
    base = recipe.configure({})
    space = make_search_space(search, recipe.configure)
    loaded = load_for_sweep([base], base, data, test, progress=Display(quiet).reading)
    recipe = replace(recipe, options={**recipe.options, "labels": with_labels(base, loaded).labels})
    out = Path(out).absolute()
    identity = {
        "recipe": asdict(base),
        "search": {dimension.key: asdict(dimension) for dimension in space},
        "seeds": [first, seeds],
        "metric": metric,
        "training images": loaded.train.sha256(),
        "test images": loaded.test.sha256(),
    }
    console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
    check_network(replace(base, device="cpu"), loaded.train)
    with make_engine(engine, base, workers, address) as runner, lock_folder(out):
        record_identity(out, identity, resume)
        make_trial = _prepare_trials(recipe, loaded, out, runner)
        searching = Search(out / "study.log", space, range(first, first + seeds), first, runner, make_trial, metric)
        while (left := trials - len(searching.finished())) > 0:
            for line in searching.measure(min(left, runner.at_once)):
                console.print(f"{len(searching.finished())}/{trials}  {line}", markup=False)
            write_search(out, searching.finished(), space, metric)
        table = write_search(out, searching.finished(), space, metric)
        if table[metric].isna().all():
            raise UserError(f"no run could be scored; see {out / 'tune.csv'}")
        best = searching.best()
        tuned = recipe.configure(best.params)
        winner = out / "winner.yaml"
        write_atomic(winner, recipe_text(tuned, best, metric).encode())
        settings = ", ".join(f"{key} {value}" for key, value in best.params.items())
        words = f"best of {len(table)} by {METRICS[metric]}: {settings}"
        console.print(f"{words}; confirming with fresh seeds …", markup=False)
        confirmation = _confirm(base, tuned, loaded, confirm, metric, runner, out / "confirm", quiet)
    table.attrs = {"winner": str(winner), "confirmation": confirmation, "metric": metric, "out": str(out)}
    return table


@dataclass(frozen=True)
class _Recipe:
    """The recipe that the search begins from: options of `resolve`, open for other hyperparameters."""

    budget: float | None
    settings: Mapping[str, Any]
    options: Mapping[str, Any]

    def configure(self, settings: Mapping[str, Any]) -> Config:
        """The configuration with these hyperparameters in place of the recipe's."""
        return resolve(budget=self.budget, settings={**self.settings, **settings}, **self.options)


def _prepare_trials(recipe: _Recipe, loaded: Data, out: Path, engine: Engine) -> "_TrialMaker":
    """Holds out a fifth of the training images, writes the images of the search, and plans once for all trials."""
    train, held, _ = hold_out(loaded.train, loaded.train.name, "use ablate: a search holds out images of its own")
    split = Data(train, held, True, ())
    write_images(out / "data", split)
    design = with_threads(Design({"recipe": recipe.configure({})}, ()), engine.threads)
    _, plans = plan_once_for_all(design, split.train, out / "plan.json", engine)
    return _TrialMaker(recipe, plans.get("recipe", {}), loaded.side, engine.threads, out)


@dataclass(frozen=True)
class _TrialMaker:
    """Makes the trials of a search.

    Attributes:
        recipe: what the proposed settings change.
        plan: the planner's choices; a proposed setting takes precedence.
        side: of the images, in pixels.
        threads: of each trial.
        out: the directory of the search.
    """

    recipe: _Recipe
    plan: Mapping[str, Any]
    side: int
    threads: int
    out: Path

    def __call__(self, settings: Mapping[str, Any], seed: int) -> Trial:
        name = ", ".join(f"{key}={value}" for key, value in settings.items())
        config = self.recipe.configure({"side": self.side, **self.plan, **settings})
        config = config.for_prepared(self.out / "data" / "train.npz", self.out / "data" / "test.npz")
        config = replace(config, seed=seed, threads=self.threads)
        # The folder depends on the configuration alone: settings that are proposed twice are trained once.
        digest = hashlib.sha256(json.dumps(asdict(replace(config, seed=0))).encode()).hexdigest()[:12]
        return Trial(name, self.out / "trials" / digest / f"seed-{seed}", config)


def _confirm(
    base: Config, tuned: Config, data: Data, seeds: int, metric: str, engine: Engine, out: Path, quiet: bool
) -> dict[str, Any]:
    """Compares the winner with the first recipe, by an ablation with fresh seeds on images that chose neither."""
    design = Design({"recipe": base, "tuned": tuned}, [Comparison("tuned", {"tuned": 1.0, "recipe": -1.0})])
    fresh_seeds = range(FIRST_FRESH_SEED, FIRST_FRESH_SEED + seeds)
    design = with_labels_of(with_side(with_threads(design, engine.threads), data.side), data)
    sweep = Sweep(design, fresh_seeds, data, facts={"budget_seconds": base.budget}, metric=metric)
    resume = (out / "sweep.json").exists()
    return run_sweep(sweep, out, engine, resume=resume, quiet=quiet).attrs["comparisons"][0]
