"""The report of a curve: `trials.csv`, and `curve.csv`, `.json`, `.md`, `.png` and `.html`."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from speedtrain.ablation.design import Comparison
from speedtrain.ablation.report import COLUMNS
from speedtrain.ablation.statistics import interval_of_mean, records
from speedtrain.ablation.sweep_folder import SCHEMA
from speedtrain.ablation.trial import Row
from speedtrain.files import write_atomic
from speedtrain.view import html, markdown
from speedtrain.view.figures import SERIES, figure
from speedtrain.view.html import tag

HEAD = (
    *("recipe", "budget (s)", "accuracy (%)", "95 % interval", "sd (points)"),
    *("networks", "width", "epochs", "images/s", "seeds"),
)


class Point(NamedTuple):
    """One point of a curve: a recipe's name, and a budget in seconds."""

    recipe: str
    budget: float


def write_curve(
    points: Mapping[str, Point],
    out: Path,
    rows: Sequence[Row],
    _: Sequence[Comparison],
    facts: Mapping[str, Any],
    planned: int,
) -> pd.DataFrame:
    """Writes all files from the trials that are done.

    Args:
        points: variant → its point on the curve.
        out: the directory of the sweep.
        rows: results of the trials, failed ones included.
        facts: about the sweep: where, data, notes.
        planned: how many trials there will be.

    Returns:
        A row per trial.
    """
    trials = pd.DataFrame(list(rows), columns=list(COLUMNS))
    table = summarise_points(trials, points)
    failed = int(trials["accuracy"].isna().sum())
    state = f"{len(trials)} of {planned} trials, {facts['where']}, {failed} failed; data {facts['data']}"
    summary = {"schema": SCHEMA, **facts, "planned": planned, "done": len(trials), "failed": failed}
    summary["points"] = json.loads(table.to_json(orient="records"))
    cells = [_cells(row) for row in records(table)]
    text = "\n".join(markdown.table(HEAD, cells))
    write_atomic(out / "trials.csv", trials.to_csv(index=False).encode())
    write_atomic(out / "curve.csv", table.to_csv(index=False).encode())
    write_atomic(out / "curve.json", json.dumps(summary, indent=2, ensure_ascii=False).encode())
    write_atomic(out / "curve.md", f"{state}. Intervals over seeds, by Student's t.\n\n{text}\n".encode())
    _draw(out / "curve.png", table, state)
    page = html.page(
        "Accuracy against budget",
        tag("h1", "What a budget buys"),
        tag("p", f"{state}."),
        html.picture(
            (out / "curve.png").read_bytes(),
            "Accuracy against budget; the table below holds the same numbers.",
            class_="curve",
        ),
        html.sortable_table("Mean accuracy, and its 95 % interval over seeds by Student's t", HEAD, cells),
    )
    write_atomic(out / "curve.html", page.encode())
    return trials


def summarise_points(trials: pd.DataFrame, points: Mapping[str, Point]) -> pd.DataFrame:
    """The trials of each point in one row; the columns are those that `curve` returns."""
    rows = []
    for variant, point in points.items():
        mine = trials[trials["variant"] == variant]
        scores = mine["accuracy"].dropna().astype(float)
        row: dict[str, Any] = {**point._asdict(), "seeds": len(scores)}
        row |= {"accuracy": scores.mean(), "sd": scores.std(), "low": np.nan, "high": np.nan}
        if len(scores) > 1 and np.ptp(scores) > 0:
            row["low"], row["high"] = interval_of_mean(scores)
        means = {key: pd.to_numeric(mine[key]).mean() for key in ("networks", "width", "epochs", "images_per_second")}
        rows.append({**row, **means})
    return pd.DataFrame(rows)


def _cells(row: Mapping[str, Any]) -> list[str]:
    def number(value: float, digits: int = 1) -> str:
        return "–" if np.isnan(value) else f"{value:,.{digits}f}"

    interval = "–" if np.isnan(row["low"]) else f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
    return [
        row["recipe"], f"{row['budget']:g}", number(100 * row["accuracy"], 2), interval, number(100 * row["sd"], 2),
        f"{row['networks']:.3g}", number(row["width"], 0), number(row["epochs"]),
        number(row["images_per_second"], 0), str(row["seeds"]),
    ]  # fmt: skip


def _draw(path: Path, table: pd.DataFrame, state: str) -> None:
    """A line per recipe on a logarithmic axis of time, with the intervals of its means."""
    with figure(path, 8, 4.8) as drawing:
        axes = drawing.subplots()
        for number, (recipe, points) in enumerate(table.dropna(subset=["accuracy"]).groupby("recipe", sort=False)):
            points, colour = points.sort_values("budget"), SERIES[number % len(SERIES)]
            axes.plot(points["budget"], 100 * points["accuracy"], "o-", color=colour, label=str(recipe))
            known = points.dropna(subset=["high"])  # one seed has no interval
            half_width = 100 * (known["high"] - known["accuracy"])
            bars: dict[str, Any] = {"fmt": "none", "color": colour, "capsize": 4}
            axes.errorbar(known["budget"], 100 * known["accuracy"], yerr=half_width, **bars)
        axes.set_xscale("log")
        axes.set_xticks(sorted(set(table["budget"])), [f"{budget:g}" for budget in sorted(set(table["budget"]))])
        axes.minorticks_off()
        axes.set_xlabel("budget (s)")
        axes.set_ylabel("accuracy (%), mean and 95 % interval over seeds")
        axes.grid()
        if axes.lines:
            axes.legend()
        drawing.suptitle(textwrap.fill(state, 95), x=0.01, ha="left", fontsize=10)
