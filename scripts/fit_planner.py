"""Fits the planner's scaling law (`speedtrain/training/scaling_law.py`) to recorded runs, and draws both.

    python scripts/fit_planner.py results/planner

The folder holds `runs.json`, a row per run with width, epochs, images, classes and accuracy. The script prints the
scaling law, to copy into `RESNET9`, and the distance of each run from it: once from the fit to all runs, once from a
fit without that run. It writes `law.png` into the same folder.
"""

import json
import sys
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from speedtrain.training.scaling_law import ScalingLaw

# the coefficients of `ScalingLaw`, in order
START = (0.06, 0.35, 0.6, 0.9, 0.6, 0.9, 0.5)
LOW = (0.0, 0.0, 0.0, 0.2, 0.0, 0.2, 0.0)
HIGH = (0.3, 1.0, 5.0, 2.0, 5.0, 2.0, 1.0)


def fit(rows: list[dict]) -> ScalingLaw:
    """Least squares on the logarithm of the error rate; robust against single bad runs."""

    def residuals(values: np.ndarray) -> list[float]:
        scaling_law = as_scaling_law(values)
        return [np.log((1 - predicted(scaling_law, row)) / (1 - row["accuracy"])) for row in rows]

    found = least_squares(residuals, START, bounds=(LOW, HIGH), loss="soft_l1", f_scale=0.05)
    return as_scaling_law(found.x)


def as_scaling_law(values: np.ndarray) -> ScalingLaw:
    """The scaling law with these coefficients. Its deviation is not known yet."""
    return ScalingLaw(*[*map(float, values), 0.0])


def predicted(scaling_law: ScalingLaw, row: dict) -> float:
    """The accuracy that the scaling law predicts for a run."""
    return scaling_law.accuracy(row["width"], row["epochs"], row["images"], row["classes"])


def main(folder: Path) -> None:
    rows = json.loads((folder / "runs.json").read_text())["rows"]
    scaling_law = fit(rows)
    residuals = np.array([predicted(scaling_law, row) - row["accuracy"] for row in rows])
    left_out = np.array(
        [predicted(fit([other for other in rows if other is not row]), row) - row["accuracy"] for row in rows]
    )
    for row, fitted, unseen in zip(rows, residuals, left_out, strict=True):
        run = f"width {row['width']:2}  {row['epochs']:6.1f} epochs  {row['images']:6} images"
        print(f"{run}  {row['accuracy']:.1%}  fitted {100 * fitted:+.1f}  left out {100 * unseen:+.1f}")
    deviation = float(np.sqrt(np.mean(left_out**2)))
    values = ", ".join(
        f"{value:.4g}"
        for value in (
            scaling_law.data,
            scaling_law.data_power,
            scaling_law.width,
            scaling_law.width_power,
            scaling_law.epochs,
            scaling_law.epochs_power,
            scaling_law.epochs_per_data,
            deviation,
        )
    )
    print(f"RESNET9 = ScalingLaw({values})")
    draw(folder / "law.png", scaling_law, rows)


def draw(path: Path, scaling_law: ScalingLaw, rows: list[dict]) -> None:
    """Accuracy against epochs for each width: the runs on 5,000 images as points, the scaling law as lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    drawn = [row for row in rows if row["images"] == 5000]
    for number, width in enumerate(sorted({row["width"] for row in drawn})):
        mine = [row for row in drawn if row["width"] == width]
        axes.plot([r["epochs"] for r in mine], [100 * r["accuracy"] for r in mine], "o", color=f"C{number}")
        epochs = np.geomspace(3, 300, 60)
        curve = [100 * scaling_law.accuracy(width, e, 5000) for e in epochs]
        axes.plot(epochs, curve, color=f"C{number}", label=f"width {width}")
    axes.set_xscale("log")
    axes.set_xlabel("epochs of 5,000 images")
    axes.set_ylabel("accuracy (%)")
    axes.grid(color="#e0e0e0")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=140)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
