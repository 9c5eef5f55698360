"""`metrics.csv`: its columns, and how they are written and read."""

import csv
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speedtrain.files import GrowingFile

COLUMNS = ("seconds", "progress", "step", "epoch", "loss", "lr", "images_per_second", "side")


class MetricsWriter:
    """Writes a `metrics.csv`.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path, ",".join(COLUMNS) + "\n")

    def add(self, row: dict[str, Any]) -> None:
        """Adds a row, whose keys are `COLUMNS`; on the disk after the next `flush`."""
        text = io.StringIO()
        csv.DictWriter(text, COLUMNS, lineterminator="\n").writerow(row)
        self._file.add(text.getvalue())

    def flush(self) -> None:
        """Writes what was added; raises OSError where the disk is full, and keeps it for the next flush."""
        self._file.flush()


class Speed:
    """Images per second, over at least `interval` seconds: over less, chance would decide.

    Args:
        interval: seconds.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._since, self._images, self._rate = time.monotonic(), 0, 0.0

    def update(self, now: float, images_seen: int) -> float:
        """The rate since the last update that was long enough ago."""
        if now - self._since >= self._interval:
            self._rate = (images_seen - self._images) / (now - self._since)
            self._since, self._images = now, images_seen
        return self._rate


def read_metrics(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Some columns of a `metrics.csv`, float64 [rows] each.

    A run killed early has no file, or one whose last line is cut short: what is whole is read.
    """
    columns: dict[str, list[float]] = {name: [] for name in names}
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
