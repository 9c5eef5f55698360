"""Accuracy against time within one run, by the weights that were kept on the way."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speedtrain.config import Config
from speedtrain.data import Images
from speedtrain.model.weights import load_facts
from speedtrain.run.directory import may_fail
from speedtrain.run.interruption import Interruption
from speedtrain.run.progress import Display
from speedtrain.run.scoring import Score, score
from speedtrain.training.kept_weights import kept_weights
from speedtrain.view.figures import BLUE, figure

EXPLANATION = (
    "The last point is the run's score. Each point before it is what the run would have scored at that instant: "
    "the learning rate had not come down yet, so a run with that time as its budget would reach more."
)


def score_kept_weights(
    run: Path, test: Images, config: Config, display: Display, interruption: Interruption
) -> list[dict[str, Any]]:
    """Scores the weights that a run kept, in the order of time; no more of them once a signal has come.

    Returns:
        For each: `seconds` since the start of the training process, `step`, `progress`, `images_seen`, `accuracy` and
        `balanced_accuracy`.
    """
    curve: list[dict[str, Any]] = []
    kept = kept_weights(run)
    for number, (seconds, weights) in enumerate(kept, 1):
        if interruption.signal is not None:
            break
        with may_fail(display):  # one that a kill has cut, or no memory: the others count all the same
            scored = score(weights, test, config, display.counting(f"scoring snapshot {number} of {len(kept)}"))
            curve.append(point(seconds, weights, scored))
    if not kept and config.snapshots:
        display.warn("no snapshot was kept: the time after the first save was too short")
    return curve


def point(seconds: float, weights: Path, scored: Score) -> dict[str, Any]:
    """One point of the curve."""
    facts = load_facts(weights)
    return {
        "seconds": round(seconds, 3),
        **{key: facts[key] for key in ("step", "progress", "images_seen")},
        "accuracy": scored.accuracy,
        "balanced_accuracy": scored.balanced_accuracy,
    }


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
