"""What a person sees of a bench: `bench.json`, `.md`, `.png` and `.html`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speedtrain.ablation.report import markdown_table, page, save_figure, sortable
from speedtrain.files import write_atomic
from speedtrain.run.report import BLUE, OTHER_PHASES, data_uri, tag

GREY = "#b8bec6"
COLOURS = ("#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7")
PHASES = ("start", "import", "data", "plan", "build", "train", "save", "exit")

Table = tuple[str, str, Sequence[str], list[list[str]]]
"""Title, what it says, heads, rows of cells."""


def write_report(out: Path, result: Mapping[str, Any]) -> None:
    """Writes all four files from what `bench` returns."""
    write_atomic(out / "bench.json", json.dumps(result, indent=2, ensure_ascii=False).encode())
    _draw(out / "bench.png", result)
    tables, place = _tables(result), _place(result)
    lines = [f"{place}.", ""]
    for title, words, head, rows in tables:
        lines += [f"**{title}.** {words}", "", *markdown_table(head, rows), ""]
    write_atomic(out / "bench.md", "\n".join(lines).encode())
    alt = "Efficiency of the convolutions, cost of the tricks, phases of the budgets; the tables hold the same numbers."
    picture = tag("img", src=data_uri((out / "bench.png").read_bytes()), alt=alt, class_="curve")
    parts = [tag("h1", "This machine, the tricks and the harness"), tag("p", f"{place}."), picture]
    for title, words, head, rows in tables:
        parts += [tag("h2", title), tag("p", words), sortable(title, head, rows)]
    write_atomic(out / "bench.html", page("Bench", *parts).encode())


def _place(result: Mapping[str, Any]) -> str:
    plan, first = result["plan"], result["budgets"][0]
    width = "" if plan["width"] is None else f" width {plan['width']},"
    return (
        f"{first['device']}, {result['threads']} threads; planned for {first['budget_seconds']:g} s: "
        f"{plan['model']},{width} batches of {plan['batch_size']}, {plan['precision']}"
    )


def _tables(result: Mapping[str, Any]) -> list[Table]:
    plan, beyond = result["plan"], result["overhead"]
    stages = list(dict.fromkeys(row["stage"] for row in result["convolutions"]))
    widths = list(dict.fromkeys(row["width"] for row in result["convolutions"]))
    known = {(row["width"], row["stage"]): row for row in result["convolutions"]}
    efficiency = [
        [str(width), *(f"{100 * known[width, stage]['share_of_peak']:.0f} %" for stage in stages)] for width in widths
    ]
    costs = [
        [row["trick"], f"{row['ms']:+.2f}", f"{row['percent']:+.1f} %", f"{row['low']:+.1f} to {row['high']:+.1f} %",
         "yes" if row["in_recipe"] else "no"]
        for row in result["tricks"][1:]
    ]  # fmt: skip
    shares = []
    for row in result["budgets"]:
        seconds = row["seconds"]
        told = (f"{seconds.get(phase, 0.0):.2f}" for phase in PHASES if phase not in ("train", "exit"))
        shares.append([f"{row['budget_seconds']:g}", f"{100 * row['train_share']:.1f} %", *told])
    return [
        ("Matrix products", "The fastest square product: what convolutions are compared with.",
         ("precision", "GFLOP/s", "size"),
         [[row["precision"], f"{row['gflops']:,.0f}", str(row["size"])] for row in result["products"]]),
        ("Convolutions", f"Forwards and backwards in {plan['precision']}, batches of {plan['batch_size']}, as a share "
         "of that peak. Winograd's way has fewer multiplications than are counted: it may take more than 100 %.",
         ("width", *stages), efficiency),
        ("Tricks", f"What each alone adds to a step of the plain network ({result['tricks'][0]['ms']:.1f} ms); "
         "median and range of rounds.", ("trick", "ms", "percent", "range", "in the recipe"), costs),
        ("Harness", "What it adds to a step of a bare PyTorch loop on the same network and images, without tricks; "
         "median of pairs.",
         ("percent", "95 % interval", "bare step (ms)"),
         [[f"{beyond['percent']:+.2f} %", f"{beyond['low']:+.2f} to {beyond['high']:+.2f} %", f"{beyond['ms']:.1f}"]]),
        ("Budgets", "Where the seconds of a real run went.",
         ("budget (s)", "training", *(phase for phase in PHASES if phase not in ("train", "exit"))), shares),
    ]  # fmt: skip


def _draw(path: Path, result: Mapping[str, Any]) -> None:
    """Three panels: convolutions by stage and width, cost of each trick, phases of each budget."""
    import matplotlib.style
    from matplotlib.figure import Figure

    costs = result["tricks"][1:]
    with matplotlib.style.context(["default", {"axes.spines.top": False, "axes.spines.right": False}]):
        figure = Figure(figsize=(13, 2.2 + 0.24 * len(costs)), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        stages = list(dict.fromkeys(row["stage"] for row in result["convolutions"]))
        for stage, colour in zip(stages, COLOURS, strict=False):
            rows = [row for row in result["convolutions"] if row["stage"] == stage]
            shares = [100 * row["share_of_peak"] for row in rows]
            left.plot([row["width"] for row in rows], shares, "o-", color=colour, label=stage)
        widths = sorted({row["width"] for row in result["convolutions"]})
        left.set_xscale("log")
        left.set_xticks(widths, [str(width) for width in widths])
        left.minorticks_off()
        left.set_ylim(bottom=0)
        left.set_xlabel("width")
        left.set_title("convolutions, % of the product's peak", fontsize=11)
        left.grid(color="#e0e0e0")
        left.legend(frameon=False, fontsize=9)

        for place, row in enumerate(costs):
            colour = BLUE if row["in_recipe"] else GREY
            middle.barh(place, row["percent"], color=colour, height=0.7)
            middle.plot([row["low"], row["high"]], [place, place], color="black", linewidth=1)
        middle.axvline(0, color="black", linewidth=1)
        middle.set_yticks(range(len(costs)), [row["trick"] for row in costs], fontsize=9)
        middle.invert_yaxis()
        middle.set_title("added to a plain step, % (blue: in the recipe)", fontsize=11)
        middle.grid(axis="x", color="#e0e0e0")
        middle.set_axisbelow(True)

        colours = dict(zip((phase for phase in PHASES if phase != "train"), OTHER_PHASES, strict=False))
        budgets = result["budgets"]
        for place, row in enumerate(budgets):
            reached = 0.0
            for phase in PHASES:
                share = 100 * row["seconds"].get(phase, 0.0) / row["budget_seconds"]
                label = phase if place == 0 else None
                right.barh(place, share, left=reached, color=colours.get(phase, BLUE), height=0.6, label=label)
                reached += share
            right.annotate(f"{100 * row['train_share']:.1f} % training", (50, place), color="white", ha="center")
        right.set_yticks(range(len(budgets)), [f"{row['budget_seconds']:g} s" for row in budgets])
        right.set_ylim(max(len(budgets), 3) - 0.4, -0.6)
        right.set_xlim(0, 100)
        right.set_title("where a budget goes, %", fontsize=11)
        right.legend(frameon=False, fontsize=8, ncols=4, loc="lower center")
        figure.suptitle(_place(result), x=0.01, ha="left", fontsize=10)
        save_figure(figure, path)
