"""`clock.csv`: what the clock decided at every step, written while training and read by a replay."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from speedtrain.files import GrowingFile

COLUMNS = ("step", "progress", "threads", "snapshot", "batch_size")


class Recorded(NamedTuple):
    """What a replay follows in place of the clock.

    Attributes:
        log: a `clock.csv`.
        steps: how many of its steps led to the weights that were saved.
        last_weights: whether these were the last ones though weights were averaged. Default: no.
    """

    log: Path
    steps: int
    last_weights: bool = False

    @classmethod
    def of(cls, log: Path, facts: Mapping[str, Any]) -> "Recorded":
        """By the facts that were stored with the weights; those of earlier versions do not say which these are."""
        return cls(log, facts["step"], facts.get("last_weights", False))


@dataclass(frozen=True)
class StepLog:
    """What the clock decided in a run: enough to train again without one.

    Attributes:
        progress: of each step.
        threads: of each step.
        snapshots: the steps after which training kept its state, to go back to after divergence.
        batch_sizes: of each step; None in the logs of versions that did not write them: there it never changed.
        last_weights: as in `Recorded`.
    """

    progress: list[float]
    threads: list[int]
    snapshots: frozenset[int]
    batch_sizes: list[int] | None = None
    last_weights: bool = False

    @classmethod
    def read(cls, path: Path, steps: int, last_weights: bool = False) -> "StepLog":
        """The first `steps` steps of a `clock.csv`; arguments as in `Recorded`."""
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))[:steps]
        kept = frozenset(number for number, row in enumerate(rows, 1) if row["snapshot"] == "1")
        sizes = [int(row["batch_size"]) for row in rows] if all("batch_size" in row for row in rows) else None
        progress, threads = [float(row["progress"]) for row in rows], [int(row["threads"]) for row in rows]
        return cls(progress, threads, kept, sizes, last_weights)


class StepLogWriter:
    """Writes a `clock.csv`.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path, ",".join(COLUMNS) + "\n")

    def add(self, step: int, progress: float, threads: int, snapshot: bool, batch_size: int) -> None:
        """Adds one step; on the disk after the next `flush`."""
        self._file.add(f"{step},{progress!r},{threads},{int(snapshot)},{batch_size}\n")

    def flush(self) -> None:
        """Writes what was added; raises OSError where the disk is full, and keeps it for the next flush."""
        self._file.flush()
