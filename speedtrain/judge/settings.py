"""The rules of a judging, and the limits of each step that follow from them."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from speedtrain.errors import UserError
from speedtrain.machine import available_cores, core_numbers, total_memory

Kind = Literal["bwrap", "none"]
"""How a submission is confined: by bubblewrap, or not at all."""


@dataclass(frozen=True)
class Limits:
    """What one step of a submission may use.

    Attributes:
        seconds: from the start of its process to its kill.
        memory: bytes of all its processes together.
        disk: bytes written and not yet deleted, including /tmp and shared memory; also the limit of a single file.
        processes: processes and threads alive at the same time.
        log: bytes printed.
        cpus: numbers of the cores that it may use.
    """

    seconds: float
    memory: int
    disk: int
    processes: int = 1024
    log: int = 8 << 20
    cpus: tuple[int, ...] = field(default_factory=lambda: tuple(core_numbers()))


@dataclass(frozen=True)
class Settings:
    """The rules of a judging, the same for every submission.

    Attributes:
        budget: seconds of a training, from start to kill.
        test_budget: seconds for predicting.
        runs: runs of each submission.
        memory, disk, processes: as in `Limits`.
        cpus: number of cores.
        sandbox: how submissions are confined.
        drift: a run is repeated if the machine's speed differs from the speed at the beginning by more than this
            part of it. If it is infinite, the speed is not measured.
    """

    budget: float
    test_budget: float
    runs: int
    memory: int
    disk: int
    processes: int
    cpus: int
    sandbox: Kind
    drift: float

    def limits(self, seconds: float) -> Limits:
        """The limits of one step that may take `seconds`."""
        cores = tuple(core_numbers()[: self.cpus])
        return Limits(seconds, self.memory, self.disk, self.processes, cpus=cores)

    def check(self, out: Path) -> None:
        """Makes sure that this machine has what the settings promise to each submission.

        Args:
            out: folder of the board, which may not exist yet.

        Raises:
            UserError: it has not.
        """
        cores = available_cores()
        if self.cpus > cores:
            raise UserError(f"--cpus {self.cpus}: this machine gives {cores}")
        memory = total_memory()
        if self.memory > memory:
            raise UserError(f"--memory {in_bytes(self.memory)}: there are {in_bytes(memory)} here")
        free = shutil.disk_usage(next(path for path in (out, *out.parents) if path.exists())).free
        if 2 * self.disk > free:  # for the scratch folder, and for the copy of the weights
            raise UserError(f"--disk {in_bytes(self.disk)}: twice as much must be free, but {out} has {in_bytes(free)}")


def in_bytes(number: int) -> str:
    """A number of bytes as a person writes it: 1610612736 → `1.5 GiB`."""
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number} bytes"
