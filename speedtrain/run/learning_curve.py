"""The figure of accuracy against time within one run. `kept_scores.py` measures it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speedtrain.view.figures import BLUE, figure

EXPLANATION = (
    "The last point is the run's score. Each point before it is what the run would have scored at that instant: "
    "the learning rate had not come down yet, so a run with that time as its budget would reach more."
)


def draw_learning_curve(path: Path, curve: Sequence[Mapping[str, Any]]) -> None:
    """Draws accuracy against time, on a logarithmic axis of time; the last point is the run's own score.

    Raises:
        OSError: it cannot be written.
    """
    seconds, accuracy = [row["seconds"] for row in curve], [100 * row["accuracy"] for row in curve]
    with figure(path, 8, 3.6, {"axes.grid": True, "font.size": 10}) as drawn:
        axes = drawn.subplots()
        axes.plot(seconds, accuracy, "o-", color=BLUE, markersize=4)
        axes.plot(seconds[-1:], accuracy[-1:], "o", color=BLUE, markersize=9)
        axes.annotate(
            f"{accuracy[-1]:.1f} %", (seconds[-1], accuracy[-1]), (0, 9), ha="right", textcoords="offset points"
        )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.tick_params(axis="x", which="minor", labelsize=8)
        axes.set_ylim(0, 1.12 * max(accuracy) or 1)
        axes.set_xlabel("time since the training process was started (s)")
        axes.set_ylabel("accuracy (%)")
