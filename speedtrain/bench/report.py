"""The report of a bench: `bench.json`, `.md`, `.png` and `.html`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from speedtrain.files import write_atomic
from speedtrain.view import html, markdown
from speedtrain.view.figures import BLUE, LIGHT_GREY, SERIES, figure, phase_colours
from speedtrain.view.html import tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PHASES = ("start", "import", "data", "plan", "build", "train", "save", "exit")
BESIDE_TRAINING = ("start", "import", "data", "plan", "build", "save")
"""Phases with a column of their own in the table of budgets."""


class Table(NamedTuple):
    """A table of the report, for Markdown and HTML alike."""

    title: str
    text: str
    head: Sequence[str]
    rows: list[list[str]]


def write_report(out: Path, result: Mapping[str, Any]) -> None:
    """Writes all files.

    Args:
        out: the directory.
        result: what `bench` returns.
    """
    write_atomic(out / "bench.json", json.dumps(result, indent=2, ensure_ascii=False).encode())
    _draw(out / "bench.png", result)
    conditions = f"{_conditions(result)}."
    tables = [make(result) for make in (_products, _convolutions, _step, _tricks, _harness, _budgets, _predictions)]

    lines = [conditions, ""]
    for table in tables:
        lines += [f"**{table.title}.** {table.text}", "", *markdown.table(table.head, table.rows), ""]
    write_atomic(out / "bench.md", "\n".join(lines).encode())

    alt = "Efficiency of the convolutions, cost of the tricks, phases of the budgets; the tables hold the same numbers."
    picture = html.picture((out / "bench.png").read_bytes(), alt, class_="curve")
    parts = [tag("h1", "This machine, the tricks and the harness"), tag("p", conditions), picture]
    for table in tables:
        parts += [tag("h2", table.title), tag("p", table.text)]
        parts.append(html.sortable_table(table.title, table.head, table.rows))
    write_atomic(out / "bench.html", html.page("Bench", *parts).encode())


def _conditions(result: Mapping[str, Any]) -> str:
    """The machine, and the plan that everything was measured with."""
    plan, first = result["plan"], result["budgets"][0]
    width = "" if plan["width"] is None else f" width {plan['width']},"
    return (
        f"{first['device']}, {result['threads']} threads; planned for {first['budget_seconds']:g} s: "
        f"{plan['model']},{width} batches of {plan['batch_size']}, {plan['precision']}"
    )


# ---- tables ----


def _products(result: Mapping[str, Any]) -> Table:
    rows = [[row["precision"], f"{row['gflops']:,.0f}", str(row["size"])] for row in result["products"]]
    text = "The fastest product of square matrices. The convolutions are compared with this peak."
    return Table("Matrix products", text, ("precision", "GFLOP/s", "size"), rows)


def _convolutions(result: Mapping[str, Any]) -> Table:
    plan, measured = result["plan"], result["convolutions"]
    stages = list(dict.fromkeys(row["stage"] for row in measured))
    share = {(row["width"], row["stage"]): row["share_of_peak"] for row in measured}
    widths = dict.fromkeys(row["width"] for row in measured)
    rows = [[str(width), *(f"{100 * share[width, stage]:.0f} %" for stage in stages)] for width in widths]
    text = (
        f"Forwards and backwards in {plan['precision']}, batches of {plan['batch_size']}, as a share of that peak. "
        "Winograd's algorithm needs fewer multiplications than are counted, so the share may exceed 100 %."
    )
    return Table("Convolutions", text, ("width", *stages), rows)


def _step(result: Mapping[str, Any]) -> Table:
    rows = [[row["part"], f"{100 * row['share']:.1f} %"] for row in result["step"]]
    text = (
        "Where the time of a step of the recipe goes, forwards and backwards together, by torch's profiler, which "
        "itself takes some time for every operation."
    )
    return Table("A step", text, ("part", "share"), rows)


def _tricks(result: Mapping[str, Any]) -> Table:
    plain, *costs = result["tricks"]
    rows = [
        [row["trick"], f"{row['ms']:+.2f}", f"{row['percent']:+.1f} %", f"{row['low']:+.1f} to {row['high']:+.1f} %",
         "yes" if row["in_recipe"] else "no"]
        for row in costs
    ]  # fmt: skip
    text = f"What each alone adds to a step of the plain network ({plain['ms']:.1f} ms); median and range of rounds."
    return Table("Tricks", text, ("trick", "ms", "percent", "range", "in the recipe"), rows)


def _harness(result: Mapping[str, Any]) -> Table:
    cost = result["overhead"]
    interval = f"{cost['low']:+.2f} to {cost['high']:+.2f} %"
    text = (
        "What the harness adds to a step of a bare PyTorch loop on the same network and images, without tricks; "
        "median of pairs."
    )
    head = ("percent", "95 % interval", "bare step (ms)")
    return Table("Harness", text, head, [[f"{cost['percent']:+.2f} %", interval, f"{cost['ms']:.1f}"]])


def _predictions(result: Mapping[str, Any]) -> Table:
    rows = [
        [str(row["batch_size"]), row["way"], row["precision"], f"{row['images_per_second']:,.0f}",
         f"{100 * row['share_of_peak']:.0f} %"]
        for row in result["predictions"]
    ]  # fmt: skip
    text = (
        "One view of each image. Exact is full precision; quick is the fastest precision that agrees with it, with the "
        "batch norms folded into the convolutions. Test-time augmentation takes as many times as long as it has views."
    )
    return Table("Predictions", text, ("batch size", "way", "precision", "images/s", "share of the peak"), rows)


def _budgets(result: Mapping[str, Any]) -> Table:
    rows = []
    for row in result["budgets"]:
        seconds = (f"{row['seconds'].get(phase, 0.0):.2f}" for phase in BESIDE_TRAINING)
        rows.append([f"{row['budget_seconds']:g}", f"{100 * row['train_share']:.1f} %", *seconds])
    text = "How a real run spent its seconds."
    return Table("Budgets", text, ("budget (s)", "training", *BESIDE_TRAINING), rows)


# ---- the figure ----


def _draw(path: Path, result: Mapping[str, Any]) -> None:
    """Three panels: convolutions by stage and width, cost of each trick, phases of each budget."""
    costs = result["tricks"][1:]
    with figure(path, 13, 2.2 + 0.24 * len(costs)) as drawing:
        left, middle, right = drawing.subplots(1, 3)
        _draw_convolutions(left, result["convolutions"])
        _draw_costs(middle, costs)
        _draw_phases(right, result["budgets"])
        drawing.suptitle(_conditions(result), x=0.01, ha="left", fontsize=10)


def _draw_convolutions(axes: "Axes", measured: Sequence[Mapping[str, Any]]) -> None:
    stages = list(dict.fromkeys(row["stage"] for row in measured))
    for number, stage in enumerate(stages):
        rows = [row for row in measured if row["stage"] == stage]
        shares = [100 * row["share_of_peak"] for row in rows]
        colour = SERIES[number % len(SERIES)]
        axes.plot([row["width"] for row in rows], shares, "o-", color=colour, label=stage)
    widths = sorted({row["width"] for row in measured})
    axes.set_xscale("log")
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("width")
    axes.set_title("convolutions, % of the product's peak", fontsize=11)
    axes.grid()
    axes.legend(fontsize=9)


def _draw_costs(axes: "Axes", costs: Sequence[Mapping[str, Any]]) -> None:
    for position, row in enumerate(costs):
        axes.barh(position, row["percent"], color=BLUE if row["in_recipe"] else LIGHT_GREY, height=0.7)
        axes.plot([row["low"], row["high"]], [position, position], color="black", linewidth=1)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(costs)), [row["trick"] for row in costs], fontsize=9)
    axes.invert_yaxis()
    axes.set_title("added to a plain step, % (blue: in the recipe)", fontsize=11)
    axes.grid(axis="x")


def _draw_phases(axes: "Axes", budgets: Sequence[Mapping[str, Any]]) -> None:
    colours = phase_colours(PHASES)
    for position, row in enumerate(budgets):
        left = 0.0
        for phase in PHASES:
            share = 100 * row["seconds"].get(phase, 0.0) / row["budget_seconds"]
            label = phase if position == 0 else None
            axes.barh(position, share, left=left, color=colours[phase], height=0.6, label=label)
            left += share
        axes.annotate(f"{100 * row['train_share']:.1f} % training", (50, position), color="white", ha="center")
    axes.set_yticks(range(len(budgets)), [f"{row['budget_seconds']:g} s" for row in budgets])
    axes.set_ylim(max(len(budgets), 3) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_title("where a budget goes, %", fontsize=11)
    axes.legend(fontsize=8, ncols=4, loc="lower center")
