"""An ablation from the outside: design, data, trials on an engine, tables."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from speedtrain.ablation.design import Design, make_design, with_threads
from speedtrain.ablation.report import write_tables
from speedtrain.ablation.trial import Engine, Local, make_trials, settle, sole_owner
from speedtrain.config import Config, nearest
from speedtrain.data import Data, Images, load_data
from speedtrain.errors import UserError
from speedtrain.files import write_atomic, write_npz
from speedtrain.run.run import FITTED_AT, check_network

START = 15.0
"""Seconds that a trial takes around its budget, to start and to score: a guess, until one has been measured."""

NOT_FOR_THE_PLANNER = ("seed", *FITTED_AT)

Source = str | Path | tuple[np.ndarray, np.ndarray]


@dataclass
class Sweep:
    """What a sweep is, apart from where it runs.

    Attributes:
        design: the variants and the questions.
        seeds: the same for every variant.
        data: images to train on and to be scored on.
        subset: training images a class, drawn anew for each seed; None for the same ones always.
        facts: what else a reader should know than where it runs, on which data, and what was planned.
    """

    design: Design
    seeds: Sequence[int]
    data: Data
    subset: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """JSON values that make it this sweep and no other."""
        return {
            "variants": {name: asdict(config) for name, config in self.design.variants.items()},
            "comparisons": {question.label: dict(question.weights) for question in self.design.comparisons},
            "seeds": list(self.seeds),
            "subset": self.subset,
            "training images": self.data.train.sha256(),
            "test images": self.data.test.sha256(),
        }


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
    engine: str = "local",
    workers: int = 1,
    address: str | None = None,
    out: str | Path = "ablation",
    resume: bool = False,
    yes: bool = False,
    dry_run: bool = False,
    quiet: bool = True,
    **told: Any,
) -> pd.DataFrame:
    """Trains variants of a recipe with the same seeds and compares them: `python -m speedtrain ablate`.

    Args:
        budget, data, test: of every trial, as for `train`.
        design, tricks, vary: which variants; see `make_design`.
        seeds: how many; they are 0, 1, 2, …, or begin at `seed`.
        subset: draw so many training images a class anew for each seed.
        engine: local, or ray: the cluster at `address`.
        workers: trials at a time on this machine; they share out its cores.
        address: of a Ray cluster, as `ray.init` takes it; default: $RAY_ADDRESS, or one of this machine alone.
        out: directory of the sweep, new or empty.
        resume: go on with the sweep in `out`.
        yes: do not refuse a design of very many trials.
        dry_run: print the trials and how long they will take; train nothing.
        quiet: show no progress.
        told: as for `train`: recipe, with_tricks, without, settings, model, …

    Returns:
        A row a trial (`variant`, `seed`, `status`, `accuracy`, `images_per_second`, `epochs`, `width`, `seconds`,
        `threads`, `error`, `run`). Its `attrs` hold `comparisons`, a list of dicts (see `compare`), and `out`.

    Raises:
        UserError: bad input, before anything is trained.
    """
    check_counts(seeds=seeds)
    first = told.pop("seed", None) or 0
    planned = make_design(design, tricks, vary, seeds=seeds, many=yes, budget=budget, **told)
    numbers = list(range(first, first + seeds))
    loaded = load(next(iter(planned.variants.values())), data, test, all_images=subset is not None)
    _check_subset(loaded.train, subset)
    for config in planned.variants.values():
        check_network(replace(config, device="cpu"), loaded.train)  # trials may run elsewhere
    with make_engine(engine, next(iter(planned.variants.values())), workers, address) as place:
        planned = with_threads(planned, place.threads)
        budgets = sum(config.budget for config in planned.variants.values()) * seeds
        if dry_run:
            _print_plan(planned, seeds, budgets, place)
            return pd.DataFrame(columns=["variant", "seed"])
        sweep = Sweep(planned, numbers, loaded, subset, {"budget_seconds": budget, "design": design})
        return run_sweep(sweep, Path(out).absolute(), place, resume=resume, quiet=quiet)


def check_counts(**counts: Any) -> None:
    """Refuses what is not a whole number from 1."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UserError(f"--{name} must be a whole number from 1, got {count!r}")


def load(config: Config, data: Source | None, test: Source | None, all_images: bool = False) -> Data:
    """The images given, or those that the configuration names."""
    return load_data(
        config.data if data is None else data,
        config.test if test is None else test,
        per_class="all" if all_images else config.per_class,
        data_root=config.data_root,
    )


@contextmanager
def make_engine(name: str, config: Config, workers: int, address: str | None) -> Iterator[Engine]:
    """The engine of that name, for trials like `config`; what it holds is let go at the end.

    Raises:
        UserError: no such engine, or it cannot be had like this.
    """
    if name == "local":
        if address is not None:
            raise UserError("--address is of a Ray cluster; say --engine ray too")
        yield Local(config, workers)
    elif name == "ray":
        if workers != 1:
            raise UserError("--workers is for --engine local; Ray runs as many trials as fit, of --threads cores each")
        from speedtrain.ablation.ray_engine import RayCluster

        with RayCluster(config, address) as cluster:
            yield cluster
    else:
        raise UserError(f"--engine {name}: no such engine{nearest(name, ('local', 'ray'))}")


def run_sweep(
    sweep: Sweep,
    out: Path,
    engine: Engine,
    *,
    resume: bool,
    quiet: bool,
    write: Callable[..., pd.DataFrame] = write_tables,
    plan_once: bool = True,
) -> pd.DataFrame:
    """Runs what is not done yet; the tables are up to date after every trial. See `ablate`.

    Args:
        write: writes the tables and returns a row a trial; called as `write_tables`.
        plan_once: see `pinned`; otherwise every trial plans for itself.
    """
    with sole_owner(out):
        settle(out, sweep.identity(), resume)
        write_images(sweep, out / "data")
        design, data = sweep.design, sweep.data
        facts = {**sweep.facts, "where": engine.where, "data": data.train.name, "notes": list(data.notes)}
        if plan_once:
            design, facts["plans"] = pinned(sweep, out / "plan.json", engine)
        trials = make_trials(design, sweep.seeds, out, sweep.subset is not None)
        order = {(trial.variant, trial.config.seed): place for place, trial in enumerate(trials)}
        rows = [row for row in (trial.done() for trial in trials) if row is not None]
        missing = [trial for trial in trials if trial.done() is None]
        console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
        columns = (BarColumn(30), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
        budgets = {(trial.variant, trial.config.seed): trial.config.budget for trial in missing}
        begun, spent = time.monotonic(), 0.0
        table = write(out, rows, sweep.design.comparisons, facts, len(trials))
        hidden = quiet or not console.is_terminal
        with ExitStack() as stack, Progress(*columns, console=console, transient=True, disable=hidden) as bar:
            task = bar.add_task("trials", total=len(trials), completed=len(rows))
            for row in stack.enter_context(closing(engine.run(missing))):
                rows.append(row)
                rows.sort(key=lambda row: order[row["variant"], row["seed"]])
                spent += budgets.pop((row["variant"], row["seed"]))
                left = _clock((time.monotonic() - begun) * sum(budgets.values()) / spent)  # budgets may differ
                said = row["error"] or f"{row['accuracy']:.2%}"
                bar.update(task, completed=len(rows), description=f"{left} left")
                line = f"{len(rows)}/{len(trials)}  {row['variant']}, seed {row['seed']}: {said}  ({left} left)"
                console.print(line, markup=False)
                table = write(out, rows, sweep.design.comparisons, facts, len(trials))
    return table


def pinned(sweep: Sweep, path: Path, engine: Engine) -> tuple[Design, dict[str, dict[str, Any]]]:
    """The design with what is `auto` planned once for all variants that differ only in their tricks or in how they
    step, since a trick compared at another width would be a comparison of widths; and the plans, by their first
    variant.

    Args:
        path: where the plans are kept, so that a sweep gone on with is the same sweep.
    """
    train = sweep.data.train
    if sweep.subset is not None:  # only their number matters to the planner
        number = sweep.subset * len(train.classes)
        train = replace(train, images=train.images[:number], labels=train.labels[:number])
    plans: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    first: dict[str, str] = {}
    variants = {}
    for name, config in sweep.design.variants.items():
        left = [key for key in ("width", "batch_size", "precision") if getattr(config, key) == "auto"]
        same = {key: value for key, value in asdict(config).items() if key not in NOT_FOR_THE_PLANNER}
        kind = first.setdefault(json.dumps(same), name)
        if left and kind not in plans:
            plan = engine.plan(replace(config), train)
            plans[kind] = {key: plan[key] for key in left if plan[key] is not None}
        variants[name] = replace(config, **plans.get(kind, {}))
    if not path.exists():
        write_atomic(path, json.dumps(plans, indent=2).encode())
    return replace(sweep.design, variants=variants), plans


def _print_plan(design: Design, seeds: int, budgets: float, engine: Engine) -> None:
    number = len(design.variants) * seeds
    for name, config in design.variants.items():
        tricks = ", ".join(config.tricks) or "no trick"
        print(f"{seeds} × {name}: {config.budget:g} s, {config.threads} threads, {tricks}")
    print(f"{len(design.comparisons)} comparisons: {', '.join(question.label for question in design.comparisons)}")
    total = (budgets + START * number) / engine.at_once
    print(f"{number} trials, {engine.where}: {_clock(total)} (budgets, and about {START:g} s around each)")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _check_subset(train: Images, subset: int | None) -> None:
    smallest = int(np.bincount(train.labels).min())
    if subset is not None and not 0 < subset <= smallest:
        raise UserError(f"--subset {subset}: must be from 1 to {smallest}, the images of the smallest class")


def write_images(sweep: Sweep, folder: Path) -> None:
    """The images of all trials, so that nothing can change under a sweep."""
    folder.mkdir(exist_ok=True)
    train = sweep.data.train
    _write_set(folder / "test.npz", sweep.data.test, np.arange(len(sweep.data.test.labels)))
    if sweep.subset is None:
        _write_set(folder / "train.npz", train, np.arange(len(train.labels)))
        return
    for seed in sweep.seeds:
        order = np.random.default_rng(seed).permutation(len(train.labels))
        members = [order[train.labels[order] == label][: sweep.subset] for label in range(len(train.classes))]
        _write_set(folder / f"train-{seed}.npz", train, np.sort(np.concatenate(members)))


def _write_set(path: Path, images: Images, chosen: np.ndarray) -> None:
    if path.exists():
        return
    names = np.array(images.classes)
    write_npz(path, images=images.images[chosen], labels=images.labels[chosen], classes=names)


def print_answers(table: pd.DataFrame) -> None:
    """The table of comparisons, for the terminal."""
    sys.stdout.write(Path(table.attrs["out"], "ablation.md").read_text(encoding="utf-8"))
