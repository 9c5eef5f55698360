"""Draws a recorded study: the mean score of each arm, with its 95 % interval over seeds.

    python scripts/draw_study.py results/long-tail-noise.json docs/images/long-tail-noise.png

The file holds `studies`, each with its `trials` (variant, seed, accuracy, balanced_accuracy), and `figure`:

    title, metric   what is drawn: accuracy or balanced_accuracy
    panels          title → study, side by side; the first has all arms
    series          name → label of an arm → its variant; each series has a colour
"""

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from speedtrain.ablation.statistics import interval_of_mean
from speedtrain.view.figures import LIGHT_GREY, SERIES, figure

APART = 0.24
"""Distance of the marks of two series in one row."""
LETTERS = 10
"""Of a title in an inch."""


def scores(study: dict[str, Any], variant: str, metric: str) -> np.ndarray:
    """Of each seed, in percent."""
    return np.array([100 * row[metric] for row in study["trials"] if row["variant"] == variant])


def draw(file: Path, out: Path) -> None:
    """Draws the figure of a file."""
    record = json.loads(file.read_text(encoding="utf-8"))
    plan = record["figure"]
    labels = list(dict.fromkeys(label for arms in plan["series"].values() for label in arms))
    width = max(7.5, 3.6 * len(plan["panels"]) + 1.6)  # inches
    with figure(out, width, 1.7 + 0.5 * len(labels)) as drawing:
        panels = drawing.subplots(1, len(plan["panels"]), sharey=True, squeeze=False)[0]
        for axes, (title, name) in zip(panels, plan["panels"].items(), strict=True):
            for number, (series, arms) in enumerate(plan["series"].items()):
                for label, variant in arms.items():
                    values = scores(record["studies"][name], variant, plan["metric"])
                    if not len(values):
                        continue  # not every arm was measured in every study
                    place = labels.index(label) + APART * (number - (len(plan["series"]) - 1) / 2)
                    axes.plot(values, [place] * len(values), "o", color=LIGHT_GREY, markersize=4, zorder=1)
                    axes.plot(interval_of_mean(values), [place, place], color=SERIES[number], linewidth=2)
                    named = series if label == next(iter(arms)) else None
                    axes.plot(values.mean(), place, "o", color=SERIES[number], markersize=7, label=named)
            axes.set_title(title, fontsize=11)
            axes.grid(axis="x")
        panels[0].set_yticks(range(len(labels)), labels)
        panels[0].set_ylim(len(labels) - 0.5, -0.5)
        if len(plan["series"]) > 1:
            panels[0].legend(fontsize=9, loc="best")
        drawing.supxlabel(f"{plan['metric'].replace('_', ' ')} (%): mean, 95 % interval, and each seed", fontsize=10)
        drawing.suptitle(textwrap.fill(plan["title"], int(LETTERS * width)), x=0.01, ha="left", fontsize=12)


if __name__ == "__main__":
    draw(*map(Path, sys.argv[1:]))
