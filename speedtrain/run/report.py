"""The report of a run: `curve.png`, and `report.html`, one file that needs no other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speedtrain.run.learning_curve import EXPLANATION, draw_learning_curve
from speedtrain.training.metrics import read_metrics
from speedtrain.view.figures import BLUE, GREEN, LEMON, ORANGE, PINK, SKY, YELLOW, figure
from speedtrain.view.gallery import GALLERY_STYLE, gallery
from speedtrain.view.html import Html, bullets, definitions, page, percent, picture, section, table, tag

PLOTTED = ("seconds", "loss", "lr", "images_per_second")
"""Columns of metrics.csv in the curve."""

MOST_CLASSES_IN_MATRIX = 25
NUM_PAIRS = 20
NUM_MISTAKES = 30

OTHER_PHASES = (YELLOW, SKY, GREEN, PINK, ORANGE, LEMON, "#8a8f98")  # blue is kept for training

STATUS = {
    "finished": "Finished within the budget.",
    "killed": "Stopped by force, at the deadline or by the system.",
    "interrupted": "Ended early, by hand or by a signal.",
    "failed": "Failed.",
}
BY_SIZE = {"many": "more than 100:", "medium": "20 to 100:", "few": "fewer than 20:"}
SCORED_ON = {"test": "test images", "holdout": "held-out images"}


def write_report(
    run: Path,
    result: Mapping[str, Any],
    *,
    images: np.ndarray | None,
    labels: np.ndarray | None,
    probabilities: np.ndarray | None,
    classes: Sequence[str],
    files: Sequence[str] | None = None,
) -> None:
    """Writes `run/curve.png` and `run/report.html`, from `run/metrics.csv` and what scoring found.

    Args:
        run: directory of the run.
        result: what `result.json` holds; any key may be missing.
        images: uint8 [N, H, W, 3], those it was scored on; None, as the next two, if it was not scored.
        labels: int64 [N].
        probabilities: float32 [N, K].
        classes: names of the K classes.
        files: names of the N images. Default: none.
    """
    _draw_curve(run / "curve.png", result, read_metrics(run / "metrics.csv", PLOTTED))
    curve = (run / "curve.png").read_bytes()
    alt = "Training loss, learning rate and images per second against time."
    sections = [_headline(result), picture(curve, alt, class_="curve"), _learning_curve(run, result)]
    sections += [section("Messages during the run", bullets(result.get("events"))), _time(result)]
    if images is not None and labels is not None and probabilities is not None and len(labels):
        pairs = labels * len(classes) + probabilities.argmax(1)
        counts = np.bincount(pairs, minlength=len(classes) ** 2).reshape(len(classes), -1)
        sections.append(_matrix(counts, classes) if len(classes) <= MOST_CLASSES_IN_MATRIX else _pairs(counts, classes))
        sections += [
            _each_class(counts, classes, result["data"].get("class_counts")),
            _mistakes(images, labels, probabilities, classes, files),
        ]
    sections.append(_what_was_run(result))
    name = (result.get("data") or {}).get("name") or "a run"
    title = f"{_accuracy(result)}, {name}"
    (run / "report.html").write_text(page(title, *sections, style=_STYLE + GALLERY_STYLE), encoding="utf-8")


def _number(value: float | None, digits: int = 0, unit: str = "") -> str | None:
    return None if value is None else f"{value:,.{digits}f}{unit}"


# ---- the sections ----


def _accuracy(result: Mapping[str, Any]) -> str:
    return "No accuracy" if result.get("accuracy") is None else f"{percent(result['accuracy'])} accuracy"


def _scored_on(result: Mapping[str, Any]) -> str:
    """On how many images, and how sure that makes the accuracy."""
    if result.get("accuracy") is None:
        return "as there are no weights to score"
    number, on = result.get("num_test_images"), str(result.get("accuracy_on"))
    low, high = result.get("accuracy_interval") or (None, None)
    images = "" if number is None else f"on {number:,} {SCORED_ON.get(on, 'images')}"
    return images if low is None or high is None else f"{images} (95 % interval {100 * low:.1f} to {percent(high)})"


def _headline(result: Mapping[str, Any]) -> Html:
    status = str(result.get("status"))
    expected = result.get("expected")
    test = result.get("test_data") or {}
    worst, by_size = result.get("worst_class"), result.get("accuracy_by_size")
    annotators, agreement = result.get("annotators"), result.get("agreement_with_annotators")
    agreed = None
    if annotators and annotators["unanimous"] is not None:
        wrong = percent(annotators["noise"])
        agreed = f"{percent(annotators['unanimous'])} of the images, as if {wrong} of the labels were wrong"
    facts = {
        "balanced accuracy": None if result.get("balanced_accuracy") is None else percent(result["balanced_accuracy"]),
        "worst class": worst and f"{worst['class']}, {percent(worst['accuracy'])}",
        "classes by training images": by_size
        and ", ".join(f"{BY_SIZE[kind]} {percent(value)}" for kind, value in by_size.items()),
        "annotators": annotators and annotators["annotators"],
        "all annotators agree on": agreed,
        "labels": annotators and f"{annotators['labels']}",
        "agreement with each annotator": agreement
        and ", ".join("–" if share is None else percent(share) for share in agreement["each"]),
        "macro F1": None if result.get("macro_f1") is None else percent(result["macro_f1"]),
        "largest class": test.get("largest_class_share") and f"{percent(test['largest_class_share'])} of the images",
        "expected, were these CIFAR-10": expected and f"{percent(expected['low'])} to {percent(expected['high'])}",
        "data": (result.get("data") or {}).get("name"),
        "budget": _number(result.get("budget_seconds"), 1, " s"),
        "wall time": _number(result.get("wall_seconds"), 1, " s"),
        "epochs": _number(result.get("epochs"), 1),
        "images seen": _number(result.get("images_seen")),
        "images per second": _number(result.get("images_per_second")),
    }
    words = STATUS.get(status, f"Status: {status}.")
    if status == "finished" and "replay_of" in result:
        words = f"Trained again by the log of {result['replay_of']}, whatever time it took."
    if rollbacks := result.get("rollbacks"):
        words += f" The loss was not finite {rollbacks} times; each time the learning rate was halved."
    parts = [
        tag("h1", _accuracy(result)),
        tag("p", _scored_on(result)),
        tag("p", words, class_=f"status {'good' if status == 'finished' and not rollbacks else 'bad'}"),
    ]
    if error := result.get("error"):
        parts.append(tag("p", error))
    return tag("header", *parts, definitions(facts))


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
        rows.append((key, _number(seconds, 2, " s"), percent(seconds / total)))
    rows.append(("sum", _number(total, 2, " s"), percent(1)))
    phases_table = table("Phases of the training process", ("phase", "time", "share"), rows, "plain sum")
    off_clock = {f"{name}, off the clock": f"{s:,.1f} s" for name, s in (result.get("off_clock") or {}).items()}
    shares = tag("div", *bar, class_="bar", aria_hidden="true")
    return section("Where the time went", shares, phases_table, definitions(off_clock))


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
    return section("Confusion matrix", table(caption, head, rows, "confusion"))


def _pairs(counts: np.ndarray, classes: Sequence[str]) -> Html:
    """The largest entries of a confusion matrix too large to show."""
    errors = counts * ~np.eye(len(classes), dtype=bool)
    order = np.argsort(-errors, axis=None, kind="stable")[:NUM_PAIRS]
    rows = []
    for true, predicted in zip(*np.unravel_index(order, errors.shape), strict=True):
        if number := errors[true, predicted]:
            rows.append((classes[true], classes[predicted], number, percent(number / counts[true].sum())))
    head = ("true class", "taken for", "images", "share of the true class")
    return section("Confusions", table(f"Most confused of {len(classes)} classes", head, rows, "plain"))


def _each_class(counts: np.ndarray, classes: Sequence[str], trained: Sequence[int] | None) -> Html:
    """Of each class: test images, training images where they are known, accuracy, and the most frequent mistake."""
    totals, errors = counts.sum(1), counts * ~np.eye(len(classes), dtype=bool)
    accuracies = counts.diagonal() / np.maximum(totals, 1)
    rows = []
    for k in np.argsort(accuracies, kind="stable"):
        bar = tag("b", percent(accuracies[k]), style=f"--width:{100 * accuracies[k]:.1f}%")
        other = errors[k].argmax()
        taken_for = f"{classes[other]} ({errors[k, other]})" if errors[k, other] else "–"
        number = f"{trained[k]:,}" if trained else "–"
        rows.append((classes[k], f"{totals[k]:,}", number, bar if totals[k] else "–", taken_for))
    head = ("true class", "images", "trained on", "accuracy", "most often taken for")
    return section("Each class", table("Accuracy by class, lowest first", head, rows, "plain classes"))


def _mistakes(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    files: Sequence[str] | None,
) -> Html:
    """The wrong predictions with the highest probabilities."""
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predicted != labels)
    if not len(wrong):
        return section("Worst mistakes", tag("p", f"None: all {len(labels):,} images were recognised."))
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:NUM_MISTAKES]

    def captioned(i: int) -> tuple[np.ndarray, str, tuple[object, ...]]:
        true, guess = classes[labels[i]], classes[predicted[i]]
        name = f"Image {i}" if files is None else files[i]
        shown = Html() if files is None else tag("span", f" {name}")
        caption = (f"{true} → {guess} ", tag("span", f"({percent(confidence[i])})"), shown)
        return images[i], f"{name}: {true}, taken for {guess}", caption

    explanation = (
        f"The surest of {len(wrong):,} wrong predictions on {len(labels):,} images: true → predicted (probability)."
    )
    return section("Worst mistakes", tag("p", explanation), gallery(map(captioned, worst.tolist())))


def _learning_curve(run: Path, result: Mapping[str, Any]) -> Html:
    """Accuracy against time, where weights were kept on the way."""
    if not (curve := result.get("learning_curve")):
        return Html()
    draw_learning_curve(run / "learning_curve.png", curve)
    alt = "Accuracy against time, on a logarithmic axis."
    image = picture((run / "learning_curve.png").read_bytes(), alt, class_="curve")
    return section("Accuracy against time", image, tag("p", EXPLANATION))


def _what_was_run(result: Mapping[str, Any]) -> Html:
    plan, tricks, command = dict(result.get("plan") or {}), result.get("tricks") or {}, result.get("command")
    reasons, measured = plan.pop("reasons", None), plan.pop("alternatives", None)
    for key in ("members", "at_once"):
        plan.pop(key, None)
    machine = {name: result.get(name) for name in ("seed", "device", "threads", "versions")}
    parts = {
        "Data": definitions(result.get("data")),
        "Started from": definitions(result.get("started_from")),
        "Members": _members(result.get("members"), scored=result.get("accuracy") is not None),
        "Plan": definitions(plan) + bullets(reasons),
        "Measured": _measured(measured, several="members" in result),
        "Tricks": definitions({name: values or "on" for name, values in tricks.items()}),
        "Machine": definitions(machine),
        "Command": tag("pre", tag("code", command)) if command else Html(),
    }
    return section("What was run", *(section(title, Html(part), level="h3") for title, part in parts.items()))


def _members(members: Sequence[Mapping[str, Any]] | None, scored: bool) -> Html:
    """The networks whose answers are averaged, one by one."""
    if not members:
        return Html()
    head = ("number", "of its own", "width", "epochs", "images/s", "accuracy alone")
    rows = [
        (
            member["number"],
            member["own"],
            member.get("width") or "–",
            _number(member.get("epochs"), 1) or "–",
            _number(member.get("images_per_second")) or "–",
            percent(member["accuracy"]) if member["accuracy"] is not None else "left out" if scored else "–",
        )
        for member in members
    ]
    return table("Networks trained at the same time; the answers of all are averaged", head, rows, "plain")


def _measured(alternatives: Sequence[Mapping[str, Any]] | None, several: bool) -> Html:
    if not alternatives:
        return Html()
    head = ("width", "precision", "images/s", "epochs", "predicted accuracy")
    rows = [
        (
            row.get("width") or "as built",
            row.get("precision"),
            _number(row.get("images_per_second")),
            _number(row.get("epochs"), 1),
            "–" if row.get("accuracy") is None else percent(row["accuracy"]),
        )
        for row in alternatives
    ]
    what = "One network alone, as measured" if several else "Measured networks"
    return table(f"{what}, and the predicted accuracy on images like CIFAR-10's", head, rows, "plain")


# ---- the curve ----


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
    seconds, loss = metrics["seconds"], metrics["loss"]
    wall = result.get("wall_seconds") or seconds.max(initial=0.0)
    # no budget binds a replay, nor a run that ended by its epochs
    bound = "replay_of" not in result and not result.get("all_epochs")
    budget = result.get("budget_seconds") if bound else None
    whole = max(budget or 0.0, wall, 1e-3)
    begin, end = _training_span(result.get("phases") or {}, seconds, wall)

    with figure(path, 9, 6, _CURVE_STYLE) as drawn:
        top, middle, bottom = panels = drawn.subplots(3, sharex=True, height_ratios=[3.6, 1, 1])
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
            middle.plot(seconds, metrics["lr"], color=ORANGE, marker=marker)
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

        anchor = {"xycoords": top.get_xaxis_transform(), "textcoords": "offset points"}
        above = anchor | {"color": "#555555", "fontsize": 9}
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
        drawn.align_ylabels()
        drawn.suptitle(f"{_accuracy(result)} {_scored_on(result)}", x=0.02, ha="left")


_SHADE = "#e8ebee"
_CURVE_STYLE = {
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "figure.titlesize": 13,
    "font.size": 10,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
}

_STYLE = """
main { max-width: 60rem }
h1 { font-size: clamp(2rem, 9vw, 3rem) }
.status { font-weight: 600 }
.bar { display: flex; gap: 1px; height: 1.75rem; border-radius: 4px; overflow: hidden; margin-bottom: 1rem }
.key i { display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin-right: .5em }
td b { display: block; font-weight: 400; border-radius: 3px }
.sum tbody tr:last-child > * { font-weight: 700; border-bottom: 0 }
.classes b { min-width: 7rem; padding: 0 .4rem;
  background: linear-gradient(90deg, rgb(var(--cold) / .35) var(--width), var(--soft) 0) }
.confusion tbody th { position: sticky; left: 0; background: var(--page); padding-right: .5rem; max-width: 9rem }
.confusion tbody th, .confusion thead span { overflow: hidden; white-space: nowrap; text-overflow: ellipsis }
.confusion thead th:not(:first-child) { text-align: center }
.confusion thead span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 9rem }
.confusion td { padding: 1px }
.confusion b { min-width: 2.9rem; padding: .35rem .25rem; text-align: center }
.hit { background: rgb(var(--cold) / var(--shade)) } .miss { background: rgb(var(--warm) / var(--shade)) }
.zero { color: var(--faint) }
"""
