"""Accuracy against time, one curve per submission, as a picture inside the board's page."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from speedtrain.view.html import Html, section, tag

WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 48, 160, 12, 36
MOST = 8
"""Curves that are drawn in colour: those of the best submissions. More cannot be told apart."""

Points = list[tuple[float, float]]


def mean_curve(runs: Sequence[Mapping[str, Any]], budget: float) -> Points:
    """The mean over runs of step functions of accuracy, as points (seconds, accuracy). Before its first copy, and
    where nothing was scored, a run counts as 0."""
    curves = [[(point["seconds"], point["accuracy"]) for point in run.get("curve", [])] for run in runs]
    times = sorted({seconds for curve in curves for seconds, _ in curve if seconds <= budget})
    return [(seconds, sum(_value(curve, seconds) for curve in curves) / len(curves)) for seconds in times]


def _value(curve: Points, seconds: float) -> float:
    return next((accuracy for at, accuracy in reversed(curve) if at <= seconds), 0.0)


def curves_figure(entries: Sequence[Mapping[str, Any]], t0: float, budget: float, level: str) -> Html:
    """Mean curves in colour, single runs faint; nothing where no copies were scored.

    Args:
        entries: of the board, the best first.
        t0: seconds; the axis of time is log(1 + t/t0).
        budget: seconds at the right end.
        level: of the heading.
    """
    drawn = [entry for entry in entries if any(run.get("curve") for run in entry["runs"])][:MOST]
    if not drawn:
        return Html()

    def place(seconds: float, accuracy: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * math.log1p(min(seconds, budget) / t0) / math.log1p(budget / t0)
        return f"{x:.1f} {HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * accuracy:.1f}"

    def path(points: Points, **attributes: object) -> Html:
        steps, accuracy = [f"M{place(points[0][0], 0)}"], 0.0
        for seconds, after in points:
            steps += [f"L{place(seconds, accuracy)}", f"L{place(seconds, after)}"]
            accuracy = after
        return tag("path", d=" ".join([*steps, f"L{place(budget, accuracy)}"]), **attributes)

    parts = [_axes(place, budget, t0)]
    labels: list[tuple[float, Html]] = []
    for number, entry in enumerate(drawn):
        for run in entry["runs"]:
            if run.get("curve"):
                points = [(point["seconds"], point["accuracy"]) for point in run["curve"]]
                parts.append(path(points, class_=f"one c{number}"))
        mean = mean_curve(entry["runs"], budget)
        parts.append(path(mean, class_=f"mean c{number}"))
        text = entry["name"] if len(entry["name"]) <= 20 else f"{entry['name'][:19]}…"
        name = Html(tag("tspan", "■ ", class_=f"c{number}") + tag("tspan", text))
        labels.append((float(place(budget, mean[-1][1]).split()[1]), name))
    parts += _labels(labels)
    title = "Accuracy of the copies against time; thick: the mean of the runs"
    picture = tag("svg", tag("title", title), *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", class_="curves")
    return section("Accuracy against time", tag("figure", picture, tag("figcaption", f"{title}.")), level=level)


def _labels(labels: list[tuple[float, Html]]) -> list[Html]:
    """The names at the right ends of their curves, moved apart where they would cover each other."""
    found: list[Html] = []
    lowest = -math.inf
    for y, name in sorted(labels, key=lambda label: label[0]):
        lowest = max(y, lowest + 15)
        found.append(tag("text", name, x=WIDTH - RIGHT + 8, y=f"{lowest + 4:.1f}"))
    return found


def _axes(place: Any, budget: float, t0: float) -> Html:
    parts = []
    for accuracy in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = place(0, accuracy).split()
        parts.append(tag("path", d=f"M{place(0, accuracy)} L{place(budget, accuracy)}", class_="axis"))
        parts.append(tag("text", f"{accuracy:.0%}", x=float(x) - 6, y=float(y) + 4, class_="end"))
    for seconds in (0.0, t0, 4 * t0, budget):
        if seconds < budget / 2 or seconds == budget:
            x, y = place(seconds, 0).split()
            parts.append(tag("text", f"{seconds:g} s", x=x, y=float(y) + 20, class_="middle"))
    return tag("g", *parts)


STYLE = """
svg.curves { width: 100%; max-width: 720px; height: auto; font-size: 12px; fill: var(--ink) }
.curves .axis { stroke: var(--line) } .curves .end { text-anchor: end } .curves .middle { text-anchor: middle }
.curves path { fill: none } .curves .mean { stroke-width: 2.5 } .curves .one { stroke-width: 1; opacity: .3 }
.curves .c0 { --hue: #2a78d6 } .curves .c1 { --hue: #c2571a } .curves .c2 { --hue: #2d8a4e }
.curves .c3 { --hue: #9a48b8 } .curves .c4 { --hue: #b5850b } .curves .c5 { --hue: #0f8c8c }
.curves .c6 { --hue: #c23b6b } .curves .c7 { --hue: #6b7280 }
.curves path.mean, .curves path.one { stroke: var(--hue) } .curves tspan[class] { fill: var(--hue) }
"""
