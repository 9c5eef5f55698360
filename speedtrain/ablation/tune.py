"""Tuning: Optuna proposes, real runs answer on a holdout of the training images, fresh seeds confirm."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from rich.console import Console

from speedtrain.ablation.design import Comparison, Design, with_threads
from speedtrain.ablation.report import markdown_table, save_figure
from speedtrain.ablation.sweep import Source, Sweep, check_counts, load, make_engine, pinned, run_sweep, write_images
from speedtrain.ablation.trial import Engine, Trial, settle, sole_owner
from speedtrain.config import Config, resolve
from speedtrain.data import Data, load_data
from speedtrain.errors import UserError
from speedtrain.files import write_atomic

FRESH = 1000
"""The first seed of the confirmation, far from those of the search."""
OF_A_RUN = ("budget", "data", "test", "per_class", "data_root", "seed", "device", "threads")
"""Keys that a recipe leaves open."""


@dataclass(frozen=True)
class Dimension:
    """Where to look for one hyperparameter: a range, whole numbers where both its ends are, or a choice."""

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    @classmethod
    def parse(cls, key: str, told: str | Sequence[Any]) -> "Dimension":
        """From `0.1..0.5`, `log:0.01..0.5` or `a,b,c`, or from a list of choices.

        Raises:
            UserError: it is none of these, or an end is missing or on the wrong side.
        """
        wrong = f"--search {key}={told}: must be LOW..HIGH, log:LOW..HIGH, or a,b,c"
        if not isinstance(told, str):
            return cls(key, choices=tuple(told))
        body, log = told.removeprefix("log:"), told.startswith("log:")
        low, dots, high = body.partition("..")
        try:
            if not dots:
                choices = tuple(dict.fromkeys(yaml.safe_load(f"[{body}]")))
                if log or len(choices) < 2:
                    raise UserError(wrong)
                return cls(key, choices=choices)
            ends = [yaml.safe_load(end) for end in (low, high)]
            # YAML takes 1e-3 for text
            low_end, high_end = (end if isinstance(end, int) else float(end) for end in ends)
        except (yaml.YAMLError, TypeError, ValueError):
            raise UserError(wrong) from None
        if not low_end < high_end or (log and low_end <= 0):
            raise UserError(f"{wrong}; LOW must be below HIGH, and above 0 for log:")
        return cls(key, low_end, high_end, log)

    def ends(self) -> Sequence[Any]:
        """Values that must be valid for all of them to be."""
        return self.choices or (self.low, self.high)

    def suggest(self, trial: Any) -> Any:
        """A value, of an `optuna.Trial`."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.key, self.low, self.high, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)


def tune(
    budget: float | None = None,
    data: Source | None = None,
    test: Source | None = None,
    *,
    search: Mapping[str, str | Sequence[Any]],
    trials: int = 40,
    seeds: int = 1,
    confirm: int = 5,
    engine: str = "local",
    workers: int = 1,
    address: str | None = None,
    out: str | Path = "tuning",
    resume: bool = False,
    quiet: bool = True,
    **told: Any,
) -> pd.DataFrame:
    """Searches hyperparameters by Optuna's TPE sampler: `python -m speedtrain tune`.

    The search measures on a fifth of the training images held out, never on `test`. The winner is written as a
    recipe and then compared with the recipe it began from, with fresh seeds on all training images, scored on
    `test` (where there is none: on images that the search has not seen either).

    Args:
        budget, data, test: of every run, as for `train`.
        search: hyperparameter → where to look: `0.1..0.5`, `log:0.01..0.5`, `a,b,c`, or a list of choices.
        trials: how many settings to try.
        seeds: runs a setting; its accuracy is their mean, and Optuna's median pruner gives up a setting between them.
        confirm: seeds of the confirmation.
        engine, workers, address, resume, quiet: as for `ablate`.
        out: directory, new or empty.
        told: as for `train`: recipe, with_tricks, without, settings, model, …

    Returns:
        A row a setting: `number`, `state`, `accuracy`, `runs` and a column a hyperparameter. Its `attrs` hold
        `winner`, the path of the recipe, `confirmation`, the comparison's dict (see `ablate`), and `out`.

    Raises:
        UserError: bad input, before anything is trained; or no run could be scored.
    """
    try:
        import optuna
        import optuna.storages.journal
    except ImportError:
        raise UserError('tune needs Optuna: pip install "speedtrain[tune]"') from None
    check_counts(trials=trials, seeds=seeds, confirm=confirm)
    if not search:
        raise UserError("nothing to search; say where, as in --search sam.rho=log:0.01..0.5")
    dimensions = [Dimension.parse(key, where) for key, where in search.items()]
    first = told.pop("seed", None) or 0
    settings = dict(told.pop("settings", None) or {})

    def configured(**values: Any) -> Config:
        return resolve(budget=budget, settings={**settings, **values}, **told)

    base = configured()
    for dimension in dimensions:
        for value in dimension.ends():
            try:
                configured(**{dimension.key: value})
            except UserError as error:
                why = str(error).removeprefix(f"--set {dimension.key}: ")
                raise UserError(f"--search {dimension.key}: {why}") from None
    loaded = load(base, data, test)
    inner = load_data((loaded.train.images, loaded.train.labels))
    out = Path(out).absolute()
    identity = {
        "recipe": asdict(base),
        "search": {dimension.key: asdict(dimension) for dimension in dimensions},
        "seeds": [first, seeds],
        "training images": loaded.train.sha256(),
        "test images": loaded.test.sha256(),
    }
    console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
    with make_engine(engine, base, workers, address) as place, sole_owner(out):
        settle(out, identity, resume)
        design = with_threads(Design({"recipe": base}, ()), place.threads)
        searching = Sweep(design, range(first, first + seeds), inner)
        write_images(searching, out / "data")
        plan = pinned(searching, out / "plan.json", place)[1].get("recipe", {})
        images: dict[str, Any] = {"data": str(out / "data" / "train.npz"), "test": str(out / "data" / "test.npz")}

        def make_trial(values: Mapping[str, Any], seed: int) -> Trial:
            name = ", ".join(f"{key}={value}" for key, value in values.items())
            config = configured(**{**plan, **values})
            config = replace(config, seed=seed, threads=place.threads, per_class="all", data_root=None, **images)
            # by what it is: settings proposed twice, or again after a kill, are not trained twice
            digest = hashlib.sha256(json.dumps(asdict(replace(config, seed=0))).encode()).hexdigest()[:12]
            return Trial(name, out / "trials" / digest / f"seed-{seed}", config)

        optuna.logging.set_verbosity(logging.WARNING)
        journal = optuna.storages.journal.JournalFileBackend(str(out / "study.log"))
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(journal),
            study_name="tune",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
        )
        begun = len(study.trials)
        study.sampler = optuna.samplers.TPESampler(seed=first + begun, constant_liar=place.at_once > 1)
        for cut_short in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
            study.tell(cut_short.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(cut_short.params)
        while (left := trials - len(_over(study))) > 0:
            for line in _try_some(study, dimensions, searching.seeds, place, make_trial, min(left, place.at_once)):
                console.print(f"{len(_over(study))}/{trials}  {line}", markup=False)
            _write_search(out, study, dimensions)
        table = _write_search(out, study, dimensions)
        if table["accuracy"].isna().all():
            raise UserError(f"no run could be scored; see {out / 'tune.csv'}")
        best = study.best_trial
        tuned = configured(**best.params)
        winner = out / "winner.yaml"
        write_atomic(winner, _recipe(tuned, best, budget).encode())
        chosen = ", ".join(f"{key} {value}" for key, value in best.params.items())
        console.print(f"best of {len(table)}: {chosen}; confirming with fresh seeds …", markup=False)
        confirmation = _confirm(base, tuned, loaded, confirm, place, out / "confirm", quiet)
    table.attrs = {"winner": str(winner), "confirmation": confirmation, "out": str(out)}
    return table


def _over(study: Any) -> list[Any]:
    """The settings that have been tried; one that a kill cut short is tried again under another number."""
    return [trial for trial in study.trials if trial.state.is_finished() and "runs" in trial.user_attrs]


def _try_some(
    study: Any, dimensions: Sequence[Dimension], seeds: Sequence[int], engine: Engine, make_trial: Any, number: int
) -> Iterator[str]:
    """Asks for `number` settings and runs them side by side, seed by seed; yields a line about each run."""
    from optuna.trial import TrialState

    asked = [study.ask() for _ in range(number)]
    values = {trial.number: {each.key: each.suggest(trial) for each in dimensions} for trial in asked}
    scores: dict[int, list[float]] = {trial.number: [] for trial in asked}

    def over(trial: Any, state: Any, score: float | None = None) -> None:
        trial.set_user_attr("runs", len(scores[trial.number]))
        study.tell(trial, score, state=state)

    alive = asked
    for step, seed in enumerate(seeds):
        runs = {trial.number: make_trial(values[trial.number], seed) for trial in alive}
        missing = {run.folder: run for run in runs.values() if run.done() is None}
        with closing(engine.run(list(missing.values()))) as ended:
            for _ in ended:
                pass
        going_on = []
        for trial in alive:
            run = runs[trial.number]
            row = run.done() or {}
            if row.get("accuracy") is None:
                trial.set_user_attr("error", row.get("error"))
                over(trial, TrialState.FAIL)
                yield f"{run.variant}, seed {seed}: {row.get('error')}"
                continue
            scores[trial.number].append(row["accuracy"])
            mean = float(np.mean(scores[trial.number]))
            trial.report(mean, step)
            last = step + 1 == len(seeds)
            if last:
                over(trial, TrialState.COMPLETE, mean)
            elif trial.should_prune():
                over(trial, TrialState.PRUNED)
            else:
                going_on.append(trial)
            yield f"{run.variant}, seed {seed}: {row['accuracy']:.2%}"
        alive = going_on


def _confirm(
    base: Config, tuned: Config, data: Data, seeds: int, engine: Engine, out: Path, quiet: bool
) -> dict[str, Any]:
    """The winner against the recipe that it began from, on seeds and images that chose neither."""
    design = Design({"recipe": base, "tuned": tuned}, [Comparison("tuned", {"tuned": 1.0, "recipe": -1.0})])
    facts = {"budget_seconds": base.budget}
    sweep = Sweep(with_threads(design, engine.threads), range(FRESH, FRESH + seeds), data, facts=facts)
    resume = (out / "sweep.json").exists()
    return run_sweep(sweep, out, engine, resume=resume, quiet=quiet).attrs["comparisons"][0]


def _recipe(config: Config, best: Any, budget: float | None) -> str:
    keys = {key: value for key, value in yaml.safe_load(config.as_yaml()).items() if key not in OF_A_RUN}
    found = ", ".join(f"{key}={value}" for key, value in best.params.items())
    lines = [
        f"# Found by tuning at {budget:g} s: {found}.",
        f"# {best.value:.2%} on the holdout of the search, which chose it and therefore flatters it.",
    ]
    return "\n".join([*lines, yaml.safe_dump(keys, sort_keys=False, default_flow_style=None, width=110)])


def _write_search(out: Path, study: Any, dimensions: Sequence[Dimension]) -> pd.DataFrame:
    """`tune.csv`, `tune.json`, `tune.md` and `tune.png`: every setting tried."""
    rows = []
    for trial in _over(study):
        value = trial.value if trial.value is not None else (list(trial.intermediate_values.values()) or [np.nan])[-1]
        row = {"number": trial.number, "state": trial.state.name.lower(), "accuracy": value}
        rows.append({**row, "runs": trial.user_attrs["runs"], **trial.params, "error": trial.user_attrs.get("error")})
    keys = [dimension.key for dimension in dimensions]
    table = pd.DataFrame(rows, columns=["number", "state", "accuracy", "runs", *keys, "error"])
    write_atomic(out / "tune.csv", table.to_csv(index=False).encode())
    write_atomic(out / "tune.json", table.to_json(orient="records", indent=2).encode())
    write_atomic(out / "tune.md", _markdown(table, keys).encode())
    _draw(out / "tune.png", table, dimensions)
    return table


def _markdown(table: pd.DataFrame, keys: Sequence[str]) -> str:
    head = ["accuracy on the holdout (%)", "runs", "state", *keys]
    lines = []
    for row in table.sort_values("accuracy", ascending=False).to_dict("records"):
        shown = (f"{row[key]:.4g}" if isinstance(row[key], float) else str(row[key]) for key in keys)
        lines.append([f"{100 * row['accuracy']:.2f}", str(row["runs"]), row["state"], *shown])
    text = "\n".join(markdown_table(head, lines, first="---:"))
    return f"{len(table)} settings, the best first. The best of many is an optimist: see the confirmation.\n\n{text}\n"


def _draw(path: Path, table: pd.DataFrame, dimensions: Sequence[Dimension]) -> None:
    """Accuracy against each hyperparameter; the best setting stands out."""
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    scored = table.dropna(subset=["accuracy"])
    with matplotlib.style.context(["default", {"axes.spines.top": False, "axes.spines.right": False}]):
        figure = Figure(figsize=(1 + 3.2 * len(dimensions), 3.6), layout="constrained")
        panels = figure.subplots(1, len(dimensions), sharey=True, squeeze=False)[0]
        for axes, dimension in zip(panels, dimensions, strict=True):
            values = scored[dimension.key]
            values = values.map(str) if dimension.choices else values
            axes.scatter(values, 100 * scored["accuracy"], color="#0072b2", alpha=0.7)
            if len(scored):
                best = int(scored["accuracy"].argmax())
                axes.scatter([values.iloc[best]], [100 * scored["accuracy"].iloc[best]], color="#d55e00", s=70)
            if dimension.log:
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(dimension.key)
            axes.grid(color="#e0e0e0")
            axes.set_axisbelow(True)
        panels[0].set_ylabel("accuracy on the holdout (%)")
        figure.suptitle(f"{len(table)} settings tried; orange: the best", x=0.01, ha="left", fontsize=11)
        save_figure(figure, path)


def print_winner(table: pd.DataFrame) -> None:
    """What came of it, for the terminal."""
    found = table.attrs["confirmation"]
    print(f"recipe: {table.attrs['winner']}")
    if found["difference"] is None:
        print("not confirmed: no run of the confirmation could be scored")
        return
    interval = (
        "" if found["low"] is None else f" (95 % interval {100 * found['low']:+.2f} to {100 * found['high']:+.2f})"
    )
    print(
        f"against the recipe it began from, {found['seeds']} fresh seeds: "
        f"{100 * found['difference']:+.2f} points{interval}: {found['verdict']}"
    )
