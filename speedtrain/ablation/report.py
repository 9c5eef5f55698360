"""The report of an ablation: `ablation.csv`, `.json`, `.md`, `.png` and `.html`."""

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from speedtrain.ablation.design import Comparison
from speedtrain.ablation.metric import METRICS
from speedtrain.ablation.statistics import ENOUGH, compare, records, summarise
from speedtrain.ablation.sweep_folder import SCHEMA
from speedtrain.ablation.trial import Row
from speedtrain.files import write_atomic
from speedtrain.view import html, markdown
from speedtrain.view.figures import BLUE, GREY, ORANGE, figure
from speedtrain.view.html import tag

COLUMNS = (
    "variant", "seed", "status", "accuracy", "balanced_accuracy", "images_per_second", "epochs", "width", "seconds",
    "networks", "threads", "error", "run",
)  # fmt: skip
LABEL_WIDTH = 34  # letters of a line beside the figure
ANSWER_HEAD = ("", "difference (points)", "95 % interval", "p", "p (Holm)", "images/s", "epochs", "seeds", "verdict")


def write_tables(
    out: Path,
    rows: Sequence[Row],
    comparisons: Sequence[Comparison],
    facts: Mapping[str, Any],
    planned: int,
    metric: str = "accuracy",
) -> pd.DataFrame:
    """Writes all files from the trials that are done.

    Args:
        out: the directory of the sweep.
        rows: results of the trials, failed ones included.
        comparisons: the questions to answer.
        facts: about the sweep: budget_seconds, design, where, plans, data, notes.
        planned: how many trials there will be.
        metric: the score that is compared, a key of `METRICS`. Default: accuracy.

    Returns:
        A row per trial; see `ablate`.
    """
    trials = pd.DataFrame(list(rows), columns=list(COLUMNS))
    for column in (*METRICS, "images_per_second", "epochs", "seconds"):
        trials[column] = pd.to_numeric(trials[column])
    answers = compare(trials, comparisons, metric)
    variants = summarise(trials, metric)
    scored = trials["accuracy"].notna()
    summary = {
        "schema": SCHEMA,
        **facts,
        "metric": metric,
        "planned": planned,
        "done": len(trials),
        "failed": int((~scored).sum()),
        "without_metric": int((scored & trials[metric].isna()).sum()),
        "comparisons": _plain(answers),
        "variants": _plain(variants),
        "trials": _plain(trials),
    }
    write_atomic(out / "ablation.csv", trials.to_csv(index=False).encode())
    write_atomic(out / "ablation.json", json.dumps(summary, indent=2, ensure_ascii=False).encode())
    write_atomic(out / "ablation.md", _markdown(answers, variants, summary).encode())
    _draw(out / "ablation.png", answers, summary)
    write_atomic(out / "ablation.html", _page(out, answers, variants, trials, summary).encode())
    trials.attrs = {"comparisons": _plain(answers), "out": str(out)}
    return trials


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of JSON values; unknown values are null."""
    return [
        {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
        for row in records(table)
    ]


# ---- words ----


def _state(summary: Mapping[str, Any]) -> str:
    """How many trials are done, where, on which data, and by what they are compared, as a sentence."""
    metric, unknown = METRICS[summary["metric"]], summary["without_metric"]
    failed = f", {summary['failed']} of them failed" if summary["failed"] else ""
    failed += f", {unknown} of them without {metric}" if unknown else ""
    budget = "" if summary.get("budget_seconds") is None else f" of {summary['budget_seconds']:g} s each"
    plans = (summary.get("plans") or {}).values()
    in_words = (", ".join(f"{key} {value}" for key, value in plan.items()) for plan in plans)
    planned = "".join(f"; planned once: {plan}" for plan in in_words if plan)
    done = "all" if summary["done"] == summary["planned"] else f"{summary['done']} of"
    where, data = summary.get("where"), summary.get("data")
    sentence = f"{done} {summary['planned']} trials{budget}, {where}{failed}; data {data}{planned}"
    return f"{sentence[0].upper()}{sentence[1:]}; compared by {metric}."


def _how_tested(summary: Mapping[str, Any]) -> str:
    """What the differences, intervals and p-values are, for the reader of a report."""
    return (
        f"Differences are paired by seed: {METRICS[summary['metric']]} with it minus without it. "
        "Intervals are 95 % by Student's t; "
        "p-values are of the two-sided paired t-test, corrected for the number of comparisons by Holm's method. "
        "They say how sure the difference is over seeds on these test images, not over other test images."
    )


def _variant_head(summary: Mapping[str, Any]) -> list[str]:
    sd = f"sd of {METRICS[summary['metric']]} (points)"
    return ["variant", "accuracy (%)", "balanced (%)", sd, "images/s", "epochs", "seeds", "failed"]


def _points(value: float, sign: bool = True) -> str:
    if math.isnan(value):
        return "–"
    return f"{100 * value:{'+' if sign else ''}.2f}"


def _p_value(value: float) -> str:
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _answer_cells(row: Mapping[str, Any]) -> list[str]:
    interval = "–" if math.isnan(row["low"]) else f"{_points(row['low'])} to {_points(row['high'])}"
    p_values = (_p_value(row[key]) for key in ("p", "p_holm"))
    costs = ("–" if math.isnan(row[key]) else f"{100 * (row[key] - 1):+.0f} %" for key in ("speed", "epochs"))
    return [row["label"], _points(row["difference"]), interval, *p_values, *costs, str(row["seeds"]), row["verdict"]]


def _variant_cells(row: Mapping[str, Any]) -> list[str]:
    speed, epochs = ("–" if math.isnan(row[k]) else f"{row[k]:,.1f}" for k in ("images_per_second", "epochs"))
    scores = (_points(row[key], sign=False) for key in ("accuracy", "balanced_accuracy", "sd"))
    return [row["variant"], *scores, speed, epochs, str(row["seeds"]), str(row["failed"])]


def _sorted(answers: pd.DataFrame) -> list[dict[str, Any]]:
    """The largest gain first."""
    return records(answers.sort_values("difference", ascending=False, na_position="last"))


def _markdown(answers: pd.DataFrame, variants: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    parts = [_state(summary), ""]
    parts += markdown.table(ANSWER_HEAD, [_answer_cells(row) for row in _sorted(answers)])
    parts += ["", _how_tested(summary), ""]
    parts += markdown.table(_variant_head(summary), [_variant_cells(row) for row in records(variants)])
    errors = [f"- {row['variant']}, seed {row['seed']}: {row['error']}" for row in summary["trials"] if row["error"]]
    if errors:
        parts += ["", "Failed:", "", *errors]
    return "\n".join(parts) + "\n"


# ---- the figure ----


def _colour(row: Mapping[str, Any]) -> str:
    return {"helps": BLUE, "harms": ORANGE}.get(row["verdict"], GREY)


def _draw(path: Path, answers: pd.DataFrame, summary: Mapping[str, Any]) -> None:
    """Differences with their intervals, the largest gain on top. Only significant ones are coloured."""
    rows = [row for row in _sorted(answers) if not math.isnan(row["difference"])]
    labels = [textwrap.fill(row["label"], LABEL_WIDTH) for row in rows]
    lines = max((label.count("\n") + 1 for label in labels), default=1)
    height = 1.7 + max(0.42, 0.2 * lines + 0.1) * max(len(rows), 1)
    with figure(path, 9, height, {"font.size": 11, "axes.spines.left": False}) as drawing:
        axes = drawing.subplots()
        axes.axvline(0, color="black", linewidth=1)
        for position, row in enumerate(rows):
            low, high = (row["low"], row["high"]) if not math.isnan(row["low"]) else (row["difference"],) * 2
            line: dict[str, Any] = {"color": _colour(row), "linewidth": 3, "solid_capstyle": "butt"}
            axes.plot([100 * low, 100 * high], [position, position], **line)
            axes.plot(100 * row["difference"], position, "o", color=_colour(row), markersize=8)
            note = f"{_points(row['difference'])}  {row['verdict']}"
            anchor: dict[str, Any] = {"xy": (1.02, position), "xycoords": ("axes fraction", "data"), "va": "center"}
            axes.annotate(note, **anchor, color=_colour(row))
        # with few seeds an interval is wider than any difference: scale by the differences, and clip the intervals
        if rows and max(row["seeds"] for row in rows) < ENOUGH:
            edge = 2 * max(abs(100 * row["difference"]) for row in rows) or 1.0
            axes.set_xlim(-edge, edge)
            for position, row in enumerate(rows):
                if 100 * row["low"] < -edge:
                    axes.plot(-edge, position, "<", color=_colour(row), clip_on=False)
                if 100 * row["high"] > edge:
                    axes.plot(edge, position, ">", color=_colour(row), clip_on=False)
        axes.set_yticks(range(len(rows)), labels)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="x")
        gained = f"{METRICS[summary['metric']]} gained by having it"
        label = f"{gained}, in percentage points (mean and 95 % interval, paired by seed)"
        drawing.supxlabel(label, fontsize=11)
        drawing.suptitle(textwrap.fill(_state(summary), 105), x=0.01, ha="left", fontsize=10)


# ---- the page ----


def _page(
    out: Path, answers: pd.DataFrame, variants: pd.DataFrame, trials: pd.DataFrame, summary: Mapping[str, Any]
) -> str:
    metric = METRICS[summary["metric"]]
    alt = f"Differences in {metric} with their intervals; the table below holds the same numbers."
    answer_rows = [_answer_cells(row) for row in _sorted(answers)]
    variant_rows = [_variant_cells(row) for row in records(variants)]
    trial_rows = [_trial_cells(out, row) for row in records(trials)]
    trial_head = ("trial", "accuracy (%)", "balanced (%)", "images/s", "epochs", "status", "error")
    return html.page(
        "Ablation",
        tag("h1", "What is it worth?"),
        tag("p", _state(summary)),
        html.picture((out / "ablation.png").read_bytes(), alt, class_="curve"),
        html.sortable_table(f"{metric.capitalize()} gained by having it", ANSWER_HEAD, answer_rows),
        tag("p", _how_tested(summary)),
        tag("h2", "Variants"),
        html.sortable_table("Means over seeds", _variant_head(summary), variant_rows),
        tag("h2", "Trials"),
        html.sortable_table("Every trial", trial_head, trial_rows),
    )


def _trial_cells(out: Path, row: Mapping[str, Any]) -> list[object]:
    """A trial's name, linked to the report of its run where there is one, and its result."""
    report = Path(str(row["run"]), "report.html")
    name = f"{row['variant']}, seed {row['seed']}"
    link = tag("a", name, href=report.as_posix()) if (out / report).exists() else name
    _, accuracy, balanced, _, speed, epochs, *_ = _variant_cells({"sd": math.nan, "seeds": 0, "failed": 0, **row})
    error = row["error"] if isinstance(row["error"], str) else ""  # pandas makes nan of a missing one
    return [link, accuracy, balanced, speed, epochs, row["status"], error]
