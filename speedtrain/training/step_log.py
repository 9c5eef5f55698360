"""What a run has recorded of its clock, for a replay."""

import csv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StepLog:
    """What the clock decided in a run: enough to train again without one.

    Attributes:
        progress: of each step.
        threads: of each step.
        snapshots: after how many steps the weights were kept to fall back on.
    """

    progress: list[float]
    threads: list[int]
    snapshots: frozenset[int]

    @classmethod
    def read(cls, path: Path, steps: int) -> "StepLog":
        """The first `steps` steps of a `clock.csv`."""
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))[:steps]
        kept = frozenset(number for number, row in enumerate(rows, 1) if row["snapshot"] == "1")
        return cls([float(row["progress"]) for row in rows], [int(row["threads"]) for row in rows], kept)
