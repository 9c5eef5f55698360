"""Fits the planner's law, `speedtrain/training/scaling_law.py`, to recorded runs, and draws it over them.

    python scripts/fit_planner.py results/planner

The folder holds `runs.json`: a row a run, with width, epochs, images, classes, accuracy. Prints the law to put into
`RESNET9`, and how far the runs lie from it, also where each is left out of the fit; draws `law.png` beside them.
"""

import json
import sys
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from speedtrain.training.scaling_law import ScalingLaw

START = (0.06, 0.35, 0.6, 0.9, 0.6, 0.9, 0.5)
LOW = (0.0, 0.0, 0.0, 0.2, 0.0, 0.2, 0.0)
HIGH = (0.3, 1.0, 5.0, 2.0, 5.0, 2.0, 1.0)


def fit(rows: list[dict]) -> ScalingLaw:
    """Least squares on the error's logarithm, robust against a lone bad run."""

    def residuals(values: np.ndarray) -> list[float]:
        law = as_law(values)
        return [np.log((1 - predicted(law, row)) / (1 - row["accuracy"])) for row in rows]

    found = least_squares(residuals, START, bounds=(LOW, HIGH), loss="soft_l1", f_scale=0.05)
    return as_law(found.x)


def as_law(values: np.ndarray) -> ScalingLaw:
    """The law with these coefficients; its deviation is not known yet."""
    return ScalingLaw(*[*map(float, values), 0.0])


def predicted(law: ScalingLaw, row: dict) -> float:
    return law.accuracy(row["width"], row["epochs"], row["images"], row["classes"])


def main(folder: Path) -> None:
    rows = json.loads((folder / "runs.json").read_text())["rows"]
    law = fit(rows)
    apart = np.array([predicted(law, row) - row["accuracy"] for row in rows])
    left_out = np.array(
        [predicted(fit([other for other in rows if other is not row]), row) - row["accuracy"] for row in rows]
    )
    for row, fitted, unseen in zip(rows, apart, left_out, strict=True):
        told = f"width {row['width']:2}  {row['epochs']:6.1f} epochs  {row['images']:6} images"
        print(f"{told}  {row['accuracy']:.1%}  fitted {100 * fitted:+.1f}  left out {100 * unseen:+.1f}")
    deviation = float(np.sqrt(np.mean(left_out**2)))
    values = ", ".join(
        f"{value:.4g}"
        for value in (
            law.data,
            law.data_power,
            law.width,
            law.width_power,
            law.epochs,
            law.epochs_power,
            law.epochs_per_data,
            deviation,
        )
    )
    print(f"RESNET9 = ScalingLaw({values})")
    draw(folder / "law.png", law, rows)


def draw(path: Path, law: ScalingLaw, rows: list[dict]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    usual = [row for row in rows if row["images"] == 5000]
    for number, width in enumerate(sorted({row["width"] for row in usual})):
        mine = [row for row in usual if row["width"] == width]
        axes.plot([r["epochs"] for r in mine], [100 * r["accuracy"] for r in mine], "o", color=f"C{number}")
        epochs = np.geomspace(3, 300, 60)
        axes.plot(
            epochs, [100 * law.accuracy(width, e, 5000) for e in epochs], color=f"C{number}", label=f"width {width}"
        )
    axes.set_xscale("log")
    axes.set_xlabel("epochs of 5,000 images")
    axes.set_ylabel("accuracy (%)")
    axes.grid(color="#e0e0e0")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=140)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
