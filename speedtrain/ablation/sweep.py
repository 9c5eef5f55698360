"""An ablation from the outside: design, data, trials on an engine, tables."""

import io
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from speedtrain.ablation.design import Design, make_design, with_threads
from speedtrain.ablation.report import write_tables
from speedtrain.ablation.trials import Row, Trial, make_trials, run_local, settle, sole_owner, split_cores
from speedtrain.data import Data, Images, load_data
from speedtrain.errors import UserError
from speedtrain.run import check_network
from speedtrain.weights import write_whole

Engine = Callable[[Sequence[Trial]], Generator[Row, None, None]]

START = 15.0
"""Seconds that a trial takes around its budget, to start and to score: a guess, until one has been measured."""


@dataclass
class Sweep:
    """What a sweep is, apart from where it runs.

    Attributes:
        design: the variants and the questions.
        seeds: the same for every variant.
        data: images to train on and to be scored on.
        subset: training images a class, drawn anew for each seed; None for the same ones always.
        facts: what else a reader should know.
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
    data: str | Path | tuple[np.ndarray, np.ndarray] = "auto",
    test: str | Path | tuple[np.ndarray, np.ndarray] | None = None,
    *,
    design: str = "drop-one",
    tricks: Sequence[str] | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
    seeds: int = 5,
    subset: int | None = None,
    workers: int = 1,
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
        workers: trials at a time on this machine; they share out its cores.
        out: directory of the sweep, new or empty.
        resume: go on with the sweep in `out`.
        yes: do not refuse a design of very many trials.
        dry_run: print the trials and how long they will take; train nothing.
        quiet: show no progress.
        told: as for `train`: recipe, with_tricks, without, settings, model, …

    Returns:
        A row a trial (`variant`, `seed`, `status`, `accuracy`, `images_per_second`, `epochs`, `seconds`,
        `threads`, `error`, `run`). Its `attrs` hold `comparisons`, a list of dicts (see `compare`), and `out`.

    Raises:
        UserError: bad input, before anything is trained.
    """
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise UserError(f"--seeds must be a whole number from 1, got {seeds!r}")
    first = told.pop("seed", None) or 0
    per_class = told.pop("per_class", None)
    data_root = told.pop("data_root", None)
    planned = make_design(design, tricks, vary, seeds=seeds, many=yes, budget=budget, **told)
    numbers = list(range(first, first + seeds))
    loaded = load_data(data, test, per_class="all" if subset else per_class, data_root=data_root)
    _check_subset(loaded.train, subset)
    for config in planned.variants.values():
        check_network(config, loaded.train)
    planned, shares = _share_out(planned, workers)
    budgets = sum(config.budget for config in planned.variants.values()) * seeds
    facts = {"budget_seconds": budget, "design": design, "workers": workers}
    sweep = Sweep(planned, numbers, loaded, subset, {**facts, "data": loaded.train.name, "notes": list(loaded.notes)})
    if dry_run:
        _print_plan(planned, seeds, budgets, workers)
        return pd.DataFrame(columns=["variant", "seed"])
    engine = partial(run_local, cores=shares)
    return run_sweep(sweep, Path(out).absolute(), engine, resume=resume, quiet=quiet)


def run_sweep(sweep: Sweep, out: Path, engine: Engine, *, resume: bool, quiet: bool) -> pd.DataFrame:
    """Runs what is not done yet; the tables are up to date after every trial. See `ablate`."""
    with sole_owner(out):
        settle(out, sweep.identity(), resume)
        _write_images(sweep, out / "data")
        trials = make_trials(sweep.design, sweep.seeds, out, sweep.subset is not None)
        order = {(trial.variant, trial.config.seed): place for place, trial in enumerate(trials)}
        rows = [row for row in (trial.done() for trial in trials) if row is not None]
        missing = [trial for trial in trials if trial.done() is None]
        console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
        columns = (BarColumn(30), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
        begun, before = time.monotonic(), len(rows)
        table = write_tables(out, rows, sweep.design.comparisons, sweep.facts, len(trials))
        hidden = quiet or not console.is_terminal
        with ExitStack() as stack, Progress(*columns, console=console, transient=True, disable=hidden) as bar:
            task = bar.add_task("trials", total=len(trials), completed=before)
            for row in stack.enter_context(closing(engine(missing))):
                rows.append(row)
                rows.sort(key=lambda row: order[row["variant"], row["seed"]])
                each = (time.monotonic() - begun) / (len(rows) - before)
                left = _clock(each * (len(trials) - len(rows)))
                said = row["error"] or f"{row['accuracy']:.2%}"
                bar.update(task, completed=len(rows), description=f"{left} left")
                line = f"{len(rows)}/{len(trials)}  {row['variant']}, seed {row['seed']}: {said}  ({left} left)"
                console.print(line, markup=False)
                table = write_tables(out, rows, sweep.design.comparisons, sweep.facts, len(trials))
    return table


def _share_out(design: Design, workers: int) -> tuple[Design, list[list[int]]]:
    """The design with its threads decided, and the cores of each worker."""
    shares = split_cores(workers)
    config = next(iter(design.variants.values()))
    if config.device != "cpu" and workers > 1:
        import torch

        if torch.cuda.is_available():
            raise UserError("--workers shares out CPU cores, not the GPU; use --device cpu, or one worker")
    threads = config.threads or len(shares[0])
    if workers > 1 and threads > len(shares[0]):
        raise UserError(f"--threads {threads}: {workers} workers get {len(shares[0])} cores each")
    return with_threads(design, threads), shares


def _print_plan(design: Design, seeds: int, budgets: float, workers: int) -> None:
    number = len(design.variants) * seeds
    for name, config in design.variants.items():
        tricks = ", ".join(config.tricks) or "no trick"
        print(f"{seeds} × {name}: {config.budget:g} s, {config.threads} threads, {tricks}")
    print(f"{len(design.comparisons)} comparisons: {', '.join(question.label for question in design.comparisons)}")
    total = (budgets + START * number) / workers
    print(f"{number} trials, {workers} at a time: {_clock(total)} (budgets, and about {START:g} s around each)")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _check_subset(train: Images, subset: int | None) -> None:
    smallest = int(np.bincount(train.labels).min())
    if subset is not None and not 0 < subset < smallest:
        raise UserError(f"--subset {subset}: must be from 1 to {smallest - 1}, as the smallest class has {smallest}")


def _write_images(sweep: Sweep, folder: Path) -> None:
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
    content = io.BytesIO()
    np.savez(content, images=images.images[chosen], labels=images.labels[chosen], classes=np.array(images.classes))
    write_whole(path, content.getvalue())


def print_answers(table: pd.DataFrame) -> None:
    """The table of comparisons, for the terminal."""
    sys.stdout.write(Path(table.attrs["out"], "ablation.md").read_text(encoding="utf-8"))
