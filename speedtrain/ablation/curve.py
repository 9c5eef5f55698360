"""The anytime curve: what accuracy a budget buys, recipes side by side."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from speedtrain.ablation.design import Comparison, Design, with_threads
from speedtrain.ablation.report import COLUMNS, markdown_table, page, save_figure, sortable
from speedtrain.ablation.statistics import ALPHA, records
from speedtrain.ablation.sweep import Source, Sweep, check_counts, load, make_engine, run_sweep
from speedtrain.ablation.trial import SCHEMA, Row
from speedtrain.config import resolve
from speedtrain.errors import UserError
from speedtrain.files import write_atomic
from speedtrain.run.report import data_uri, tag
from speedtrain.run.run import check_network

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
HEAD = ("recipe", "budget (s)", "accuracy (%)", "95 % interval", "sd (points)", "width", "epochs", "images/s", "seeds")

Places = Mapping[str, tuple[str, float]]
"""Variant → recipe and budget."""


def curve(
    budgets: Sequence[float],
    data: Source | None = None,
    test: Source | None = None,
    *,
    recipes: Sequence[str | Path] = ("auto",),
    seeds: int = 3,
    engine: str = "local",
    workers: int = 1,
    address: str | None = None,
    out: str | Path = "curve",
    resume: bool = False,
    quiet: bool = True,
    **told: Any,
) -> pd.DataFrame:
    """Trains recipes at several budgets: `python -m speedtrain curve`.

    Args:
        budgets: seconds.
        data, test: as for `train`.
        recipes: names or paths.
        seeds, engine, workers, address, resume, quiet: as for `ablate`.
        out: directory, new or empty.
        told: as for `train`: with_tricks, without, settings, model, …

    Returns:
        A row a recipe and budget: `recipe`, `budget`, `seeds`, `accuracy` (mean), `sd`, `low` and `high` (its 95 %
        interval over seeds, by Student's t), and the means `width`, `epochs` and `images_per_second`.

    Raises:
        UserError: bad input, before anything is trained.
    """
    if not budgets:
        raise UserError("no budget; say which, as in --budgets 15,30,60")
    check_counts(seeds=seeds)
    first = told.pop("seed", None) or 0
    places: dict[str, tuple[str, float]] = {}
    variants = {}
    for budget in dict.fromkeys(budgets):
        for recipe in dict.fromkeys(recipes):
            config = resolve(recipe=recipe, budget=budget, **told)
            name = f"{Path(recipe).stem}, {config.budget:g} s"
            if name in variants:
                raise UserError(f"two recipes are called {Path(recipe).stem}: give them other names")
            variants[name], places[name] = config, (Path(recipe).stem, config.budget)
    loaded = load(next(iter(variants.values())), data, test)
    for config in variants.values():
        check_network(replace(config, device="cpu"), loaded.train)  # trials may run elsewhere
    with make_engine(engine, next(iter(variants.values())), workers, address) as place:
        design = with_threads(Design(variants, ()), place.threads)
        sweep = Sweep(design, range(first, first + seeds), loaded)
        write = partial(_write, places)
        run_sweep(sweep, Path(out).absolute(), place, resume=resume, quiet=quiet, write=write, plan_once=False)
    return pd.read_csv(Path(out) / "curve.csv")


def _write(
    places: Places, out: Path, rows: Sequence[Row], _: Sequence[Comparison], facts: Mapping[str, Any], planned: int
) -> pd.DataFrame:
    """`curve.csv`, `.json`, `.md`, `.png` and `.html` from the trials that are done; returns a row a trial."""
    trials = pd.DataFrame(list(rows), columns=list(COLUMNS))
    table = _table(trials, places)
    write_atomic(out / "trials.csv", trials.to_csv(index=False).encode())
    write_atomic(out / "curve.csv", table.to_csv(index=False).encode())
    failed = int(trials["accuracy"].isna().sum())
    state = f"{len(trials)} of {planned} trials, {facts['where']}, {failed} failed; data {facts['data']}"
    told = {"schema": SCHEMA, **facts, "planned": planned, "done": len(trials), "failed": failed}
    told |= {"points": json.loads(table.to_json(orient="records"))}
    write_atomic(out / "curve.json", json.dumps(told, indent=2, ensure_ascii=False).encode())
    _draw(out / "curve.png", table, state)
    cells = [_cells(row) for row in records(table)]
    text = "\n".join(markdown_table(HEAD, cells))
    write_atomic(out / "curve.md", f"{state}. Intervals over seeds, by Student's t.\n\n{text}\n".encode())
    alt = "Accuracy against budget; the table below holds the same numbers."
    picture = tag("img", src=data_uri((out / "curve.png").read_bytes()), alt=alt, class_="curve")
    caption = "Mean accuracy, and its 95 % interval over seeds by Student's t"
    sections = (tag("h1", "What a budget buys"), tag("p", f"{state}."), picture, sortable(caption, HEAD, cells))
    write_atomic(out / "curve.html", page("Accuracy against budget", *sections).encode())
    return trials


def _table(trials: pd.DataFrame, places: Places) -> pd.DataFrame:
    rows = []
    for name, (recipe, budget) in places.items():
        mine = trials[trials["variant"] == name]
        scores = mine["accuracy"].dropna().astype(float)
        row: dict[str, Any] = {"recipe": recipe, "budget": budget, "seeds": len(scores)}
        row |= {"accuracy": scores.mean(), "sd": scores.std(), "low": np.nan, "high": np.nan}
        if len(scores) > 1 and np.ptp(scores) > 0:
            half = stats.sem(scores) * stats.t.ppf(1 - ALPHA / 2, len(scores) - 1)
            row |= {"low": scores.mean() - half, "high": scores.mean() + half}
        means = {key: pd.to_numeric(mine[key]).mean() for key in ("width", "epochs", "images_per_second")}
        rows.append({**row, **means})
    return pd.DataFrame(rows)


def _cells(row: Mapping[str, Any]) -> list[str]:
    def shown(value: float, digits: int = 1) -> str:
        return "–" if np.isnan(value) else f"{value:,.{digits}f}"

    interval = "–" if np.isnan(row["low"]) else f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
    return [
        row["recipe"], f"{row['budget']:g}", shown(100 * row["accuracy"], 2), interval, shown(100 * row["sd"], 2),
        shown(row["width"], 0), shown(row["epochs"]), shown(row["images_per_second"], 0), str(row["seeds"]),
    ]  # fmt: skip


def _draw(path: Path, table: pd.DataFrame, state: str) -> None:
    """A line a recipe on a logarithmic axis of time, with the intervals of its means."""
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", {"axes.spines.top": False, "axes.spines.right": False}]):
        figure = Figure(figsize=(8, 4.8), layout="constrained")
        axes = figure.subplots()
        for number, (recipe, points) in enumerate(table.dropna(subset=["accuracy"]).groupby("recipe", sort=False)):
            points, colour = points.sort_values("budget"), COLOURS[number % len(COLOURS)]
            axes.plot(points["budget"], 100 * points["accuracy"], "o-", color=colour, label=str(recipe))
            several = points.dropna(subset=["high"])  # one seed has no interval
            half = 100 * (several["high"] - several["accuracy"])
            axes.errorbar(several["budget"], 100 * several["accuracy"], yerr=half, fmt="none", color=colour, capsize=4)
        axes.set_xscale("log")
        axes.set_xticks(sorted(set(table["budget"])), [f"{budget:g}" for budget in sorted(set(table["budget"]))])
        axes.minorticks_off()
        axes.set_xlabel("budget (s)")
        axes.set_ylabel("accuracy (%), mean and 95 % interval over seeds")
        axes.grid(color="#e0e0e0")
        axes.set_axisbelow(True)
        if axes.lines:
            axes.legend(frameon=False)
        figure.suptitle(textwrap.fill(state, 95), x=0.01, ha="left", fontsize=10)
        save_figure(figure, path)
