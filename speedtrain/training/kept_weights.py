"""Weights of a few instants of a run, kept beside the last ones: for its accuracy against time."""

import os
import shutil
from pathlib import Path

import numpy as np

FOLDER = "snapshots"
"""Name of their folder in a run's directory."""


class KeptWeights:
    """Keeps the weights file of some instants, evenly spaced on a logarithmic axis of time.

    Args:
        folder: where to keep them; made with the first.
        count: how many; 0 keeps none.
        first: the first instant, in seconds since the start of the process.
        budget: in seconds. The weights of its end are the run's own.
    """

    def __init__(self, folder: Path, count: int, first: float, budget: float) -> None:
        self.folder = folder
        self._instants = list(np.geomspace(first, budget, count + 1)[:-1]) if count and first < budget else []

    def due(self, seconds: float) -> bool:
        """Whether an instant has come, at so many seconds since the start of the process."""
        return bool(self._instants) and seconds >= self._instants[0]

    def keep(self, weights: Path, seconds: float) -> None:
        """Keeps a weights file as it is now: later saves replace that file and leave this one.

        Raises:
            OSError: it cannot be written.
        """
        self._instants = [instant for instant in self._instants if instant > seconds]
        self.folder.mkdir(exist_ok=True)
        kept = self.folder / f"{seconds:010.3f}.safetensors"
        try:
            os.link(weights, kept)  # takes no time, however large it is
        except OSError:  # a file system without links
            part = kept.with_suffix(".part")
            shutil.copyfile(weights, part)
            part.replace(kept)  # whole, or not there


def kept_weights(run: Path) -> list[tuple[float, Path]]:
    """Seconds since the start of the process, and weights file, of each instant of a run, in order."""
    return [(float(path.stem), path) for path in sorted((run / FOLDER).glob("*.safetensors"))]
