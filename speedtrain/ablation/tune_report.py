"""The report of a search: `tune.csv`, `.json`, `.md` and `.png`, the winner's recipe, and the lines on the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import yaml

from speedtrain.ablation.metric import METRICS
from speedtrain.ablation.search_space import Dimension
from speedtrain.ablation.statistics import records
from speedtrain.config import Config
from speedtrain.files import write_atomic
from speedtrain.view import markdown
from speedtrain.view.figures import BLUE, ORANGE, figure

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

OPEN_IN_A_RECIPE = (
    *("budget", "data", "test", "per_class", "data_root", "seed", "device", "threads"),
    *("start_from", "snapshots", "in_long_runs"),
)
"""Keys that a recipe leaves to the run, and what the planner may add, which no trial had."""


def write_search(
    out: Path, proposals: Sequence["FrozenTrial"], space: Sequence[Dimension], metric: str
) -> pd.DataFrame:
    """Writes the tables and the figure.

    Args:
        out: the directory of the search.
        proposals: the settings that were tried, with their results.
        space: what was searched.
        metric: what the search was by, a key of `METRICS`.

    Returns:
        A row per proposal; see `tune`.
    """
    keys = [dimension.key for dimension in space]
    rows = [_row(proposal, metric) for proposal in proposals]
    table = pd.DataFrame(rows, columns=["number", "state", metric, "runs", *keys, "error"])
    write_atomic(out / "tune.csv", table.to_csv(index=False).encode())
    write_atomic(out / "tune.json", table.to_json(orient="records", indent=2).encode())
    write_atomic(out / "tune.md", _markdown(table, keys, metric).encode())
    _draw(out / "tune.png", table, space, metric)
    return table


def _row(proposal: "FrozenTrial", metric: str) -> dict[str, object]:
    """A proposal that was given up has the score of its trials until then."""
    so_far = list(proposal.intermediate_values.values()) or [np.nan]
    score = so_far[-1] if proposal.value is None else proposal.value
    row = {"number": proposal.number, "state": proposal.state.name.lower(), metric: score}
    attributes = proposal.user_attrs
    return {**row, "runs": attributes["runs"], **proposal.params, "error": attributes.get("error")}


def _markdown(table: pd.DataFrame, keys: Sequence[str], metric: str) -> str:
    head = [f"{METRICS[metric]} on the holdout (%)", "runs", "state", *keys]
    lines = []
    for row in records(table.sort_values(metric, ascending=False)):
        values = (f"{row[key]:.4g}" if isinstance(row[key], float) else str(row[key]) for key in keys)
        lines.append([f"{100 * row[metric]:.2f}", str(row["runs"]), row["state"], *values])
    text = "\n".join(markdown.table(head, lines, align=["right"] * len(head)))
    words = f"{len(table)} settings, the best first. The best of many is an optimist: see the confirmation."
    return f"{words}\n\n{text}\n"


def _draw(path: Path, table: pd.DataFrame, space: Sequence[Dimension], metric: str) -> None:
    """The score against each hyperparameter; the best setting stands out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    scored = table.dropna(subset=[metric])
    with figure(path, 1 + 3.2 * len(space), 3.6) as drawing:
        panels = drawing.subplots(1, len(space), sharey=True, squeeze=False)[0]
        for axes, dimension in zip(panels, space, strict=True):
            values = scored[dimension.key]
            values = values.map(str) if dimension.choices else values
            axes.scatter(values, 100 * scored[metric], color=BLUE, alpha=0.7)
            if len(scored):
                best = int(scored[metric].argmax())
                axes.scatter([values.iloc[best]], [100 * scored[metric].iloc[best]], color=ORANGE, s=70)
            if dimension.log:
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(dimension.key)
            axes.grid()
        panels[0].set_ylabel(f"{METRICS[metric]} on the holdout (%)")
        drawing.suptitle(f"{len(table)} settings tried; orange: the best", x=0.01, ha="left", fontsize=11)


def recipe_text(config: Config, best: "FrozenTrial", metric: str) -> str:
    """The winner as a recipe, with a comment that says where it comes from, and its score."""
    keys = {key: value for key, value in yaml.safe_load(config.as_yaml()).items() if key not in OPEN_IN_A_RECIPE}
    settings = ", ".join(f"{key}={value}" for key, value in best.params.items())
    score = f"{METRICS[metric].capitalize()} {best.value:.2%}"
    lines = [
        f"# Found by tuning at {config.budget:g} s: {settings}.",
        f"# {score} on the holdout of the search, which chose it and therefore flatters it.",
    ]
    return "\n".join([*lines, yaml.safe_dump(keys, sort_keys=False, default_flow_style=None, width=110)])


def print_winner(table: pd.DataFrame) -> None:
    """Prints the winner and its confirmation, for the terminal.

    Args:
        table: what `tune` returned.
    """
    answer = table.attrs["confirmation"]
    print(f"recipe: {table.attrs['winner']}")
    if answer["difference"] is None:
        print("not confirmed: no run of the confirmation could be scored")
        return
    interval = ""
    if answer["low"] is not None:
        interval = f" (95 % interval {100 * answer['low']:+.2f} to {100 * answer['high']:+.2f})"
    points = f"{100 * answer['difference']:+.2f} points of {METRICS[table.attrs['metric']]}"
    difference = f"{points}{interval}: {answer['verdict']}"
    print(f"against the recipe it began from, {answer['seeds']} fresh seeds: {difference}")
