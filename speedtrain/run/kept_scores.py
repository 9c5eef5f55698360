"""Accuracy against time within one run, by the weights that were kept on the way."""

from pathlib import Path
from typing import Any

from speedtrain.config import Config
from speedtrain.data import Images
from speedtrain.model.weights import load_facts
from speedtrain.run.interruption import Interruption
from speedtrain.run.progress import Display
from speedtrain.run.run_directory import may_fail
from speedtrain.run.scoring import Score, score
from speedtrain.training.kept_weights import kept_weights


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
