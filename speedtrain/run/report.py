"""What a person sees of a run: `curve.png`, and `report.html`, one file that asks the network for nothing."""

import base64
import csv
import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MOST_CLASSES_IN_MATRIX = 25
NUM_PAIRS = 20
NUM_MISTAKES = 30

# Okabe and Ito's palette, which the colour-blind can tell apart; blue is kept for training
BLUE, VERMILION, GREEN = "#0072b2", "#d55e00", "#009e73"
OTHER_PHASES = ("#e69f00", "#56b4e9", GREEN, "#cc79a7", VERMILION, "#f0e442", "#8a8f98")

STATUS = {
    "finished": "Finished within the budget.",
    "killed": "Stopped by force, at the deadline or by the system.",
    "interrupted": "Ended early, by hand or by a signal.",
    "failed": "Failed.",
}
SCORED_ON = {"test": "test images", "holdout": "held-out images"}


def write_report(
    run: Path,
    result: Mapping[str, Any],
    *,
    images: np.ndarray | None,
    labels: np.ndarray | None,
    probabilities: np.ndarray | None,
    classes: Sequence[str],
) -> None:
    """Writes `run/curve.png` and `run/report.html`, from `run/metrics.csv` and what scoring found.

    Args:
        run: directory of the run.
        result: what `result.json` holds; any key may be missing.
        images: uint8 [N, H, W, 3], those it was scored on; None, as the next two, if it was not scored.
        labels: int64 [N].
        probabilities: float32 [N, K].
        classes: names of the K classes.
    """
    _draw_curve(run / "curve.png", result, _read_metrics(run / "metrics.csv"))
    curve = (run / "curve.png").read_bytes()
    alt = "Training loss, learning rate and images a second against time."
    sections = [_headline(result), tag("img", src=data_uri(curve), alt=alt, class_="curve")]
    sections += [_section("Said during the run", _list(result.get("events"))), _time(result)]
    if images is not None and labels is not None and probabilities is not None and len(labels):
        pairs = labels * len(classes) + probabilities.argmax(1)
        counts = np.bincount(pairs, minlength=len(classes) ** 2).reshape(len(classes), -1)
        sections.append(_matrix(counts, classes) if len(classes) <= MOST_CLASSES_IN_MATRIX else _pairs(counts, classes))
        sections += [_each_class(counts, classes), _mistakes(images, labels, probabilities, classes)]
    sections.append(_what_was_run(result))
    name = (result.get("data") or {}).get("name") or "a run"
    head = tag("head", _META, tag("title", f"{_accuracy(result)}, {name}"), tag("style", STYLE))
    page = tag("html", head, tag("body", tag("main", *sections)), lang="en")
    (run / "report.html").write_text(f"<!doctype html>\n{page}\n", encoding="utf-8")


# ---- HTML ----


class Html(str):
    """A string that is HTML already. Any other value is text, and is escaped on its way into a tag."""


# what HTML cannot hold: controls, and lone surrogates (of odd file names); and marks that turn text around
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def tag(name: str, *children: object, **attributes: object) -> Html:
    """An element. In the names of attributes `_` stands for `-`, and a last one is dropped."""
    given = (f' {key.rstrip("_").replace("_", "-")}="{_escape(value)}"' for key, value in attributes.items())
    start = f"<{name}{''.join(given)}>"
    return Html(start if name == "img" else f"{start}{''.join(map(_escape, children))}</{name}>")


def _escape(value: object) -> str:
    return value if isinstance(value, Html) else html.escape(_UNPRINTABLE.sub("\ufffd", str(value)))


def _section(title: str, *parts: Html, level: str = "h2") -> Html:
    """Parts under a heading; nothing where all of them are nothing."""
    return tag("section", tag(level, title), *parts) if any(parts) else Html()


def _list(items: Iterable[object] | None) -> Html:
    entries = [tag("li", _say(item)) for item in items or ()]
    return tag("ul", *entries) if entries else Html()


def _facts(facts: Mapping[str, object] | None) -> Html:
    """Names and values, without those not known."""
    known = {name: value for name, value in (facts or {}).items() if value not in (None, "", [], {})}
    entries = (tag("div", tag("dt", name), tag("dd", _say(value))) for name, value in known.items())
    return tag("dl", *entries) if known else Html()


def _table(caption: str, head: Sequence[object], rows: Iterable[Sequence[object]], kind: str) -> Html:
    """A table whose rows begin with their header, in a box of its own that scrolls where it is too wide."""
    columns = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head)))
    body = (tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows)
    table = tag("table", tag("caption", caption), columns, tag("tbody", *body))
    return tag("div", table, class_=f"scroll {kind}", tabindex=0, role="region", aria_label=caption)


def _say(value: object) -> object:
    """Values as a person writes them."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_say(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(f"({_say(item)})" if isinstance(item, list | tuple) else f"{_say(item)}" for item in value)
    return f"{value:.6g}" if isinstance(value, float) else value


def _number(value: float | None, digits: int = 0, unit: str = "") -> str | None:
    return None if value is None else f"{value:,.{digits}f}{unit}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


# ---- the sections ----


def _accuracy(result: Mapping[str, Any]) -> str:
    return "No accuracy" if result.get("accuracy") is None else f"{_percent(result['accuracy'])} accuracy"


def _scored_on(result: Mapping[str, Any]) -> str:
    """On how many images, and how sure that makes the accuracy."""
    if result.get("accuracy") is None:
        return "as there are no weights to score"
    number, on = result.get("num_test_images"), str(result.get("accuracy_on"))
    low, high = result.get("accuracy_interval") or (None, None)
    images = "" if number is None else f"on {number:,} {SCORED_ON.get(on, 'images')}"
    return images if low is None or high is None else f"{images} (95 % interval {100 * low:.1f} to {_percent(high)})"


def _headline(result: Mapping[str, Any]) -> Html:
    status = str(result.get("status"))
    hope = result.get("expected")
    facts = {
        "expected, were these CIFAR-10": hope and f"{_percent(hope['low'])} to {_percent(hope['high'])}",
        "data": (result.get("data") or {}).get("name"),
        "budget": _number(result.get("budget_seconds"), 1, " s"),
        "wall time": _number(result.get("wall_seconds"), 1, " s"),
        "epochs": _number(result.get("epochs"), 1),
        "images seen": _number(result.get("images_seen")),
        "images a second": _number(result.get("images_per_second")),
    }
    words = STATUS.get(status, f"Status: {status}.")
    if status == "finished" and "replay_of" in result:
        words = f"Trained again by the record of {result['replay_of']}, whatever time it took."
    if repairs := result.get("repairs"):
        words += f" The loss was not finite {repairs} times, each of which cost half the learning rate."
    parts = [
        tag("h1", _accuracy(result)),
        tag("p", _scored_on(result)),
        tag("p", words, class_=f"status {'good' if status == 'finished' and not repairs else 'bad'}"),
    ]
    if error := result.get("error"):
        parts.append(tag("p", error))
    return tag("header", *parts, _facts(facts))


def _time(result: Mapping[str, Any]) -> Html:
    phases: Mapping[str, float] = result.get("phases") or {}
    total = sum(phases.values())
    if total <= 0:
        return Html()
    others = (name for name in phases if name != "train")
    colours = {name: OTHER_PHASES[i % len(OTHER_PHASES)] for i, name in enumerate(others)} | {"train": BLUE}
    bar: list[Html] = []
    rows: list[Sequence[object]] = []
    for name, seconds in phases.items():
        bar.append(tag("i", style=f"flex-grow:{seconds / total:.6f};background:{colours[name]}"))
        key = tag("span", tag("i", style=f"background:{colours[name]}"), name, class_="key")
        rows.append((key, _number(seconds, 2, " s"), _percent(seconds / total)))
    rows.append(("sum", _number(total, 2, " s"), _percent(1)))
    table = _table("Phases of the training process", ("phase", "time", "share"), rows, "plain sum")
    off_clock = {f"{name}, off the clock": f"{s:,.1f} s" for name, s in (result.get("off_clock") or {}).items()}
    picture = tag("div", *bar, class_="bar", aria_hidden="true")
    return _section("Where the time went", picture, table, _facts(off_clock))


def _matrix(counts: np.ndarray, classes: Sequence[str]) -> Html:
    def cell(true: int, predicted: int) -> Html:
        share = counts[true, predicted] / max(counts[true].sum(), 1)
        # mistakes are far rarer than hits: the root makes them visible
        kind, shade = ("hit", 0.6 * share) if true == predicted else ("miss", 0.8 * share**0.5)
        return tag("b", counts[true, predicted], class_=kind if share else "zero", style=f"--shade:{shade:.3f}")

    every = range(len(classes))
    head = ("true ↓ predicted →", *(tag("span", name) for name in classes))
    rows = ((classes[true], *(cell(true, predicted) for predicted in every)) for true in every)
    caption = "Images of each true class (rows) by predicted class (columns)"
    return _section("Confusion matrix", _table(caption, head, rows, "confusion"))


def _pairs(counts: np.ndarray, classes: Sequence[str]) -> Html:
    """The largest entries of a confusion matrix too large to show."""
    errors = counts * ~np.eye(len(classes), dtype=bool)
    order = np.argsort(-errors, axis=None, kind="stable")[:NUM_PAIRS]
    rows = []
    for true, predicted in zip(*np.unravel_index(order, errors.shape), strict=True):
        if number := errors[true, predicted]:
            rows.append((classes[true], classes[predicted], number, _percent(number / counts[true].sum())))
    head = ("true class", "taken for", "images", "share of the true class")
    return _section("Confusions", _table(f"Most confused of {len(classes)} classes", head, rows, "plain"))


def _each_class(counts: np.ndarray, classes: Sequence[str]) -> Html:
    totals, errors = counts.sum(1), counts * ~np.eye(len(classes), dtype=bool)
    accuracies = counts.diagonal() / np.maximum(totals, 1)
    rows = []
    for k in np.argsort(accuracies, kind="stable"):
        bar = tag("b", _percent(accuracies[k]), style=f"--width:{100 * accuracies[k]:.1f}%")
        other = errors[k].argmax()
        taken_for = f"{classes[other]} ({errors[k, other]})" if errors[k, other] else "–"
        rows.append((classes[k], f"{totals[k]:,}", bar if totals[k] else "–", taken_for))
    head = ("true class", "images", "accuracy", "most often taken for")
    return _section("Each class", _table("Accuracy by class, lowest first", head, rows, "plain classes"))


def _mistakes(images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> Html:
    """The images of which it was surest, and wrong."""
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predicted != labels)
    if not len(wrong):
        return _section("Worst mistakes", tag("p", f"None: all {len(labels):,} images were recognised."))
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:NUM_MISTAKES]
    figures = []
    for i in worst:
        png = io.BytesIO()
        Image.fromarray(images[i]).save(png, "PNG")
        true, guess = classes[labels[i]], classes[predicted[i]]
        picture = tag("img", src=data_uri(png.getvalue()), alt=f"Image {i}: {true}, taken for {guess}")
        caption = tag("figcaption", f"{true} → {guess} ", tag("span", f"({_percent(confidence[i])})"))
        figures.append(tag("figure", picture, caption))
    said = f"Of {len(wrong):,} wrong among {len(labels):,}, those it was surest of: true → predicted (probability)."
    return _section("Worst mistakes", tag("p", said), tag("div", *figures, class_="mistakes"))


def _what_was_run(result: Mapping[str, Any]) -> Html:
    plan, tricks, command = dict(result.get("plan") or {}), result.get("tricks") or {}, result.get("command")
    reasons, weighed = plan.pop("reasons", None), plan.pop("alternatives", None)
    machine = {name: result.get(name) for name in ("seed", "device", "threads", "versions")}
    parts = {
        "Data": _facts(result.get("data")),
        "Plan": _facts(plan) + _list(reasons),
        "Weighed": _weighed(weighed),
        "Tricks": _facts({name: values or "on" for name, values in tricks.items()}),
        "Machine": _facts(machine),
        "Command": tag("pre", tag("code", command)) if command else Html(),
    }
    return _section("What was run", *(_section(title, Html(part), level="h3") for title, part in parts.items()))


def _weighed(alternatives: Sequence[Mapping[str, Any]] | None) -> Html:
    if not alternatives:
        return Html()
    head = ("width", "precision", "images/s", "epochs", "promises")
    rows = [
        (
            row.get("width") or "as built",
            row.get("precision"),
            _number(row.get("images_per_second")),
            _number(row.get("epochs"), 1),
            "–" if row.get("accuracy") is None else _percent(row["accuracy"]),
        )
        for row in alternatives
    ]
    return _table("What was measured, and what accuracy it promises on images like CIFAR-10's", head, rows, "plain")


# ---- the curve ----


def _read_metrics(path: Path) -> dict[str, np.ndarray]:
    """The columns to draw. A run killed early has no file, or one whose last line is cut short."""
    columns: dict[str, list[float]] = {name: [] for name in ("seconds", "loss", "lr", "images_per_second")}
    if path.exists():
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            for row in csv.DictReader(file):
                try:
                    values = [float(row[name]) for name in columns]
                except (KeyError, TypeError, ValueError):
                    continue
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
    return {name: np.array(column) for name, column in columns.items()}


def _smooth(values: np.ndarray) -> np.ndarray:
    """A centred weighted mean over a few percent of the values, passing over those not finite."""
    finite = np.isfinite(values)
    kernel = np.hanning(len(values) // 40 + 3)[1:-1]
    weight = np.convolve(finite, kernel, "same")
    total = np.convolve(np.where(finite, values, 0.0), kernel, "same")
    return np.divide(total, weight, out=np.full(len(values), np.nan), where=weight > 1e-6)


def _training_span(phases: Mapping[str, float], seconds: np.ndarray, wall: float) -> tuple[float, float]:
    """When training began and when it ended, in seconds, by the ledger and the steps recorded."""
    names = list(phases)
    before = sum(phases[name] for name in names[: names.index("train")]) if "train" in names else wall
    return (min(before, seconds[0]), seconds[-1]) if len(seconds) else (min(before, wall), wall)


def _draw_curve(path: Path, result: Mapping[str, Any], metrics: Mapping[str, np.ndarray]) -> None:
    # late, as it is slow to import; a bare Figure draws by Agg and leaves alone a notebook's backend
    import matplotlib.style
    from matplotlib.figure import Figure

    seconds, loss = metrics["seconds"], metrics["loss"]
    wall = result.get("wall_seconds") or seconds.max(initial=0.0)
    # no budget binds a replay
    budget = None if "replay_of" in result else result.get("budget_seconds")
    whole = max(budget or 0.0, wall, 1e-3)
    begin, end = _training_span(result.get("phases") or {}, seconds, wall)

    with matplotlib.style.context(["default", _CURVE_STYLE]):
        figure = Figure(figsize=(9, 6), layout="constrained")
        top, middle, bottom = panels = figure.subplots(3, sharex=True, height_ratios=[3.6, 1, 1])
        for panel, label in zip(panels, ("training loss", "learning rate", "images/s"), strict=True):
            panel.set_ylabel(label)
            panel.axvspan(0, begin, color=_SHADE, linewidth=0)
            panel.axvspan(end, max(wall, end), color=_SHADE, linewidth=0)
            if budget is not None:
                panel.axvline(budget, color="black", linewidth=1.2, linestyle=(0, (4, 2)))
        finite = loss[np.isfinite(loss)]
        if len(finite):
            # one loss gone wild must flatten neither the others nor their mean
            ceiling = 1.2 * np.percentile(finite, 99) or 1.0
            marker = "o" if len(seconds) < 30 else None
            top.plot(seconds, loss, color=BLUE, alpha=0.25, linewidth=0.7, label="raw")
            top.plot(seconds, _smooth(np.minimum(loss, ceiling)), color=BLUE, marker=marker, label="smoothed")
            middle.plot(seconds, metrics["lr"], color=VERMILION, marker=marker)
            bottom.plot(seconds, metrics["images_per_second"], color=GREEN, marker=marker)
            bottom.yaxis.set_major_formatter("{x:,.0f}")
            for panel in panels:
                panel.set_ylim(0, 1.08 * panel.get_ylim()[1])
            top.set_ylim(0, ceiling)
            top.legend(loc="upper center", ncols=2)
        else:
            top.set_title("no loss was recorded", y=0.5)
            for panel in panels:
                panel.set_yticks([])

        place = {"xycoords": top.get_xaxis_transform(), "textcoords": "offset points"}
        above = place | {"color": "#555555", "fontsize": 9}
        top.annotate(f"before training {begin:,.1f} s", (0, 1), (0, 5), **above)
        if budget is not None:
            top.annotate(f"deadline {budget:g} s", (budget, 1), (0, 5), ha="right", **above)
        if wall - end >= 0.05:
            # inside its shade where that is wide enough
            offset, side = (4, "left") if wall - end > 0.03 * whole else (-4, "right")
            what = "after training" if result.get("status") == "finished" else "nothing recorded"
            top.annotate(f"{what} {wall - end:,.1f} s", (end, 1), (offset, -6), ha=side, va="top", rotation=90, **above)
        bottom.set_xlabel("time since the training process was started (s)")
        bottom.set_xlim(0, 1.01 * whole)
        figure.align_ylabels()
        figure.suptitle(f"{_accuracy(result)} {_scored_on(result)}", x=0.02, ha="left")
        figure.savefig(path, dpi=140)


_SHADE = "#e8ebee"
_CURVE_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.titlesize": 13,
    "font.size": 10,
    "grid.color": "#e0e0e0",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
}

# the policy holds the browser to what this module promises: nothing is fetched, nothing is run
_META = Html("""<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'"><link rel="icon" href="data:,">""")

STYLE = Html("""
:root { --page: #fff; --ink: #1b1f24; --faint: #5b6570; --line: #d9dee4; --soft: #f4f6f8; --good: #00704f;
  --bad: #b34700; --blue: 0 114 178; --orange: 213 94 0 }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171c; --ink: #e6e9ee; --faint: #9aa4b0; --line: #333a44; --soft: #1d2229; --good: #3fc79a;
    --bad: #ff9a57 }
  .curve { filter: invert(.92) hue-rotate(180deg) }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere }
main { max-width: 60rem; margin: auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: clamp(2rem, 9vw, 3rem); line-height: 1.1; margin: 0 }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.3rem }
h3 { margin: 1.25rem 0 .25rem; font-size: 1rem }
p, ul, dl, pre { margin: .5rem 0 }
ul { padding-left: 1.2rem }
.status { font-weight: 600 } .good { color: var(--good) } .bad { color: var(--bad) }
.curve { display: block; width: 100%; height: auto; margin: 1.5rem 0; border-radius: 6px }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem }
dt, caption { color: var(--faint); font-size: .875rem }
dd { margin: 0 }
pre { background: var(--soft); padding: .75rem; border-radius: 4px; white-space: pre-wrap }
.bar { display: flex; gap: 1px; height: 1.75rem; border-radius: 4px; overflow: hidden; margin-bottom: 1rem }
.key i { display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin-right: .5em }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal }
caption { text-align: left; padding-bottom: .4rem }
th { font-weight: 500; text-align: left }
thead th { color: var(--faint); vertical-align: bottom }
td b { display: block; font-weight: 400; border-radius: 3px }
.plain th, .plain td { padding: .2rem .75rem; border-bottom: 1px solid var(--line); max-width: 20rem }
.plain td, .plain thead th:not(:first-child) { text-align: right }
.sum tbody tr:last-child > * { font-weight: 700; border-bottom: 0 }
.classes b { min-width: 7rem; padding: 0 .4rem;
  background: linear-gradient(90deg, rgb(var(--blue) / .35) var(--width), var(--soft) 0) }
.confusion tbody th { position: sticky; left: 0; background: var(--page); padding-right: .5rem; max-width: 9rem }
.plain th, .plain td, .confusion tbody th, .confusion thead span {
  overflow: hidden; white-space: nowrap; text-overflow: ellipsis }
.confusion thead th:not(:first-child) { text-align: center }
.confusion thead span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 9rem }
.confusion td { padding: 1px }
.confusion b { min-width: 2.9rem; padding: .35rem .25rem; text-align: center }
.hit { background: rgb(var(--blue) / var(--shade)) } .miss { background: rgb(var(--orange) / var(--shade)) }
.zero, figcaption span { color: var(--faint) }
.mistakes { display: grid; grid-template-columns: repeat(auto-fill, minmax(max(6.2rem, 15%), 1fr)); gap: 1rem }
figure { margin: 0; break-inside: avoid }
figure img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 4px;
  image-rendering: pixelated }
figcaption { font-size: .8rem; line-height: 1.3; margin-top: .3rem }
@media print {
  * { print-color-adjust: exact }
  :root { font-size: 11px } body { font-size: 1rem }
  .scroll { overflow: visible }
  h2, h3 { break-after: avoid }
  tr { break-inside: avoid }
}
""")
