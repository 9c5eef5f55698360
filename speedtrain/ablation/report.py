"""What a person sees of an ablation: `ablation.csv`, `.json`, `.md`, `.png` and `.html`."""

import io
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from speedtrain.ablation.design import Comparison
from speedtrain.ablation.statistics import ENOUGH, compare, records, summarise
from speedtrain.ablation.trial import SCHEMA, Row
from speedtrain.files import write_atomic
from speedtrain.run.report import BLUE, STYLE, VERMILION, Html, data_uri, tag

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (
    "variant", "seed", "status", "accuracy", "images_per_second", "epochs", "width", "seconds", "threads", "error",
    "run",
)  # fmt: skip
GREY = "#5b6570"
TEST = (
    "Differences are paired by seed: accuracy with it minus without it. Intervals are 95 % by Student's t; "
    "p-values are of the two-sided paired t-test, corrected for the number of comparisons by Holm's method. "
    "They say how sure the difference is over seeds on these test images, not over other test images."
)


def write_tables(
    out: Path, rows: Sequence[Row], comparisons: Sequence[Comparison], facts: Mapping[str, Any], planned: int
) -> pd.DataFrame:
    """Writes all files from the trials that are done.

    Args:
        rows: results, of which some may be failures.
        facts: about the sweep: budget_seconds, design, where, plans, data, notes.
        planned: how many trials there will be.

    Returns:
        A row a trial; see `ablate`.
    """
    trials = pd.DataFrame(list(rows), columns=list(COLUMNS))
    for column in ("accuracy", "images_per_second", "epochs", "seconds"):
        trials[column] = pd.to_numeric(trials[column])
    answers = compare(trials, comparisons)
    variants = summarise(trials)
    write_atomic(out / "ablation.csv", trials.to_csv(index=False).encode())
    told = {
        "schema": SCHEMA,
        **facts,
        "planned": planned,
        "done": len(trials),
        "failed": int(trials["accuracy"].isna().sum()),
        "comparisons": _plain(answers),
        "variants": _plain(variants),
        "trials": _plain(trials),
    }
    write_atomic(out / "ablation.json", json.dumps(told, indent=2, ensure_ascii=False).encode())
    write_atomic(out / "ablation.md", _markdown(answers, variants, told).encode())
    _draw(out / "ablation.png", answers, told)
    write_atomic(out / "ablation.html", _page(out, answers, variants, trials, told).encode())
    trials.attrs = {"comparisons": _plain(answers), "out": str(out)}
    return trials


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of JSON values; what is not known is null."""
    return [
        {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
        for row in records(table)
    ]


# ---- words ----


def _state(told: Mapping[str, Any]) -> str:
    """How far it is, on what."""
    failed = f", {told['failed']} of them failed" if told["failed"] else ""
    budget = "" if told.get("budget_seconds") is None else f" of {told['budget_seconds']:g} s each"
    plans = (", ".join(f"{key} {value}" for key, value in plan.items()) for plan in (told.get("plans") or {}).values())
    planned = "".join(f"; planned once: {plan}" for plan in plans if plan)
    done = "all" if told["done"] == told["planned"] else f"{told['done']} of"
    return f"{done} {told['planned']} trials{budget}, {told.get('where')}{failed}; data {told.get('data')}{planned}"


def _points(value: float, sign: bool = True) -> str:
    if math.isnan(value):
        return "–"
    return f"{100 * value:{'+' if sign else ''}.2f}"


def _answer_cells(row: Mapping[str, Any]) -> list[str]:
    interval = "–" if math.isnan(row["low"]) else f"{_points(row['low'])} to {_points(row['high'])}"
    p = [
        "–" if math.isnan(row[key]) else "< 0.001" if row[key] < 0.001 else f"{row[key]:.3f}" for key in ("p", "p_holm")
    ]
    costs = ["–" if math.isnan(row[key]) else f"{100 * (row[key] - 1):+.0f} %" for key in ("speed", "epochs")]
    return [row["label"], _points(row["difference"]), interval, *p, *costs, str(row["seeds"]), row["verdict"]]


ANSWER_HEAD = ("", "difference (points)", "95 % interval", "p", "p (Holm)", "images/s", "epochs", "seeds", "verdict")
VARIANT_HEAD = ("variant", "accuracy (%)", "sd (points)", "images/s", "epochs", "seeds", "failed")


def _variant_cells(row: Mapping[str, Any]) -> list[str]:
    speed, epochs = ("–" if math.isnan(row[k]) else f"{row[k]:,.1f}" for k in ("images_per_second", "epochs"))
    accuracy, sd = _points(row["accuracy"], sign=False), _points(row["sd"], sign=False)
    return [row["variant"], accuracy, sd, speed, epochs, str(row["seeds"]), str(row["failed"])]


def _sorted(answers: pd.DataFrame) -> list[dict[str, Any]]:
    return records(answers.sort_values("difference", ascending=False, na_position="last"))


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], first: str = "---") -> list[str]:
    """Its lines. Numbers stand to the right; `first` says where the first column does."""
    lines = [head, [first, *["---:"] * (len(head) - 1)], *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _markdown(answers: pd.DataFrame, variants: pd.DataFrame, told: Mapping[str, Any]) -> str:
    state = _state(told)
    parts = [state[0].upper() + state[1:] + ".", ""]
    parts += markdown_table(ANSWER_HEAD, [_answer_cells(row) for row in _sorted(answers)])
    parts += ["", TEST, ""]
    parts += markdown_table(VARIANT_HEAD, [_variant_cells(row) for row in records(variants)])
    errors = [f"- {row['variant']}, seed {row['seed']}: {row['error']}" for row in told["trials"] if row["error"]]
    if errors:
        parts += ["", "Failed:", "", *errors]
    return "\n".join(parts) + "\n"


# ---- the picture ----


def _colour(row: Mapping[str, Any]) -> str:
    return {"helps": BLUE, "harms": VERMILION}.get(row["verdict"], GREY)


def save_figure(figure: "Figure", path: Path) -> None:
    """Writes a picture whole; called within its style."""
    content = io.BytesIO()
    figure.savefig(content, dpi=140, format="png")
    write_atomic(path, content.getvalue())


def _draw(path: Path, answers: pd.DataFrame, told: Mapping[str, Any]) -> None:
    """Differences with their intervals, best on top; colour only where the answer is sure."""
    import matplotlib.style
    from matplotlib.figure import Figure

    rows = [row for row in _sorted(answers) if not math.isnan(row["difference"])]
    style = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False}
    with matplotlib.style.context(["default", style]):
        figure = Figure(figsize=(9, 1.7 + 0.42 * max(len(rows), 1)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color="black", linewidth=1)
        for place, row in enumerate(rows):
            low, high = (row["low"], row["high"]) if not math.isnan(row["low"]) else (row["difference"],) * 2
            colour, middle = _colour(row), 100 * row["difference"]
            axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
            axes.plot(middle, place, "o", color=colour, markersize=8)
            note = f"{_points(row['difference'])}  {row['verdict']}"
            axes.annotate(note, (1.02, place), xycoords=("axes fraction", "data"), va="center", color=colour)
        # without enough seeds an interval is wider than any answer: let the points, not it, set the scale
        if rows and max(row["seeds"] for row in rows) < ENOUGH:
            reach = 2 * max(abs(100 * row["difference"]) for row in rows) or 1.0
            axes.set_xlim(-reach, reach)
            for place, row in enumerate(rows):  # an arrow where the interval goes on
                for edge, beyond in ((-reach, 100 * row["low"] < -reach), (reach, 100 * row["high"] > reach)):
                    if beyond:
                        axes.plot(edge, place, "<" if edge < 0 else ">", color=_colour(row), clip_on=False)
        axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="x", color="#e0e0e0")
        axes.set_axisbelow(True)
        label = "accuracy gained by having it, in percentage points (mean and 95 % interval, paired by seed)"
        figure.supxlabel(label, fontsize=11)
        figure.suptitle(textwrap.fill(_state(told), 105), x=0.01, ha="left", fontsize=10)
        save_figure(figure, path)


# ---- the page ----


def sortable(caption: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> Html:
    """A table whose columns sort by a button in their heads."""
    columns = tag("tr", *(tag("th", tag("button", name or "what", type="button"), scope="col") for name in head))
    body = (tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows)
    table = tag("table", tag("caption", caption), tag("thead", columns), tag("tbody", *body), class_="sortable")
    return tag("div", table, class_="scroll plain", tabindex=0, role="region", aria_label=caption)


def _page(
    out: Path, answers: pd.DataFrame, variants: pd.DataFrame, trials: pd.DataFrame, told: Mapping[str, Any]
) -> str:
    listed = []
    for row in records(trials):
        report = Path(str(row["run"]), "report.html")
        name = f"{row['variant']}, seed {row['seed']}"
        link = tag("a", name, href=report.as_posix()) if (out / report).exists() else name
        cells = _variant_cells({"sd": math.nan, "seeds": 0, "failed": 0, **row})
        listed.append((link, cells[1], cells[3], cells[4], row["status"], row["error"] or ""))
    alt = "Differences in accuracy with their intervals; the table below holds the same numbers."
    state = _state(told)
    sections = [
        tag("h1", "What is it worth?"),
        tag("p", state[0].upper() + state[1:] + "."),
        tag("img", src=data_uri((out / "ablation.png").read_bytes()), alt=alt, class_="curve"),
        sortable("Accuracy gained by having it", ANSWER_HEAD, [_answer_cells(row) for row in _sorted(answers)]),
        tag("p", TEST),
        tag("h2", "Variants"),
        sortable("Means over seeds", VARIANT_HEAD, [_variant_cells(row) for row in records(variants)]),
        tag("h2", "Trials"),
        sortable("Every trial", ("trial", "accuracy (%)", "images/s", "epochs", "status", "error"), listed),
    ]
    return page("Ablation", *sections)


def page(title: str, *sections: Html) -> str:
    """A whole HTML document, whose tables sort."""
    head = tag("head", _META, tag("title", title), tag("style", STYLE, _MORE_STYLE))
    whole = tag("html", head, tag("body", tag("main", *sections), tag("script", _SORT)), lang="en")
    return f"<!doctype html>\n{whole}\n"


_META = Html("""<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<link rel="icon" href="data:,">""")

_MORE_STYLE = Html("""
main { max-width: 72rem }
h1 { font-size: 2rem }
a { color: inherit }
.sortable button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer;
  text-decoration: underline dotted }
.sortable th[aria-sort=ascending] button::after { content: " ↑" }
.sortable th[aria-sort=descending] button::after { content: " ↓" }
.plain th, .plain td { max-width: 24rem; padding-inline: .4rem; font-size: .9rem }
""")

_SORT = Html("""
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, i) => {
    const text = row.cells[i].textContent, number = parseFloat(text.replace(/[,<+ ]/g, ""));
    return Number.isNaN(number) ? text : number;
  };
  heads.forEach((head, i) => head.firstChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") === "descending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...body.rows].sort((a, b) => {
      const x = key(a, i), y = key(b, i);
      const order = typeof x === typeof y ? (x < y ? -1 : x > y ? 1 : 0) : typeof x === "number" ? 1 : -1;
      return up ? order : -order;
    });
    body.append(...rows);
  }));
}
""")
