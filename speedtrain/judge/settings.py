"""The rules of a judging, and the limits of each step that follow from them."""

import math
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from speedtrain.errors import UserError
from speedtrain.judge.scratch import room_for
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
        gpus: numbers of the GPUs that it may use; None for all.
    """

    seconds: float
    memory: int
    disk: int
    processes: int = 1024
    log: int = 8 << 20
    cpus: tuple[int, ...] = field(default_factory=lambda: tuple(core_numbers()))
    gpus: tuple[int, ...] | None = None


BY_KERNEL = ("memory", "processes", "cores", "disk")
"""Limits on all processes of a step together that the kernel holds where it can."""


def held_in_words(by_kernel: Collection[str]) -> str:
    """Who holds the limits on all processes of a step together.

    Args:
        by_kernel: those of `BY_KERNEL` that the kernel holds.
    """
    kernel = [limit for limit in BY_KERNEL if limit in by_kernel]
    others = [limit for limit in BY_KERNEL if limit not in by_kernel]
    parts = [f"the kernel limits the {_listed(kernel)} of all processes of a run together"] if kernel else []
    if others:
        parts.append(f"the judge checks the {_listed(others)} of all processes of a run several times per second")
    return "; ".join(parts)


def _listed(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


ScoreKind = Literal["accuracy", "balanced_accuracy", "worst_class", "anytime", "time_to_target"]


@dataclass(frozen=True)
class Score:
    """What decides.

    Attributes:
        kind: accuracy, balanced accuracy or accuracy of the worst class at the end of the budget; the area under the
            curve of accuracy over log(1 + t/t0); or the seconds until an accuracy is reached for good.
        t0: seconds; sets the scale of time, and the instants of copies.
        target: accuracy to be reached; None for other kinds.
        copies: how many instants of a run are looked at, its end among them.
    """

    kind: ScoreKind = "accuracy"
    t0: float = 30.0
    target: float | None = None
    copies: int = 20

    @property
    def over_time(self) -> bool:
        """Whether it needs copies of the weights while a run trains."""
        return self.kind in ("anytime", "time_to_target")


@dataclass(frozen=True)
class ZipRules:
    """What a submission may hold.

    Attributes:
        pretrained_weights: whether it may bring weights and data.
        largest_file: bytes of a file.
        largest_zip: bytes of the zip, and of all its files.
        licence: whether its manifest must declare a licence.
    """

    pretrained_weights: bool = False
    largest_file: int = 1 << 20
    largest_zip: int = 16 << 20
    licence: bool = True


@dataclass(frozen=True)
class Settings:
    """The rules of a judging, the same for every submission.

    Attributes:
        budget: seconds of a training, from start to kill.
        test_budget: seconds for predicting.
        runs: runs of each submission.
        memory, disk, processes: as in `Limits`.
        cpus: number of cores.
        gpus: number of GPUs; None for all.
        sandbox: how submissions are confined.
        drift: before a run, the judge waits while the machine's speed differs from the speed at the beginning by more
            than this part of it. If it is infinite, the speed is not measured.
        score: what decides.
        rules: what a submission may hold.
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
    score: Score = Score()
    rules: ZipRules = ZipRules()
    gpus: int | None = None

    def limits(self, seconds: float, place: int = 0) -> Limits:
        """The limits of one step that may take `seconds`.

        Args:
            place: number of the run among those that go on at the same time on this machine. Default: it is alone.
        """
        cores = tuple(core_numbers()[place * self.cpus : (place + 1) * self.cpus])
        gpus = None if self.gpus is None else tuple(range(place * self.gpus, (place + 1) * self.gpus))
        return Limits(seconds, self.memory, self.disk, self.processes, cpus=cores, gpus=gpus)

    def check(self, out: Path, place: int = 0) -> None:
        """Makes sure that this machine has what the settings promise to each submission.

        Args:
            out: folder of the board, which may not exist yet.
            place: as in `limits`.

        Raises:
            UserError: it has not.
        """
        cores = available_cores()
        if (place + 1) * self.cpus > cores:
            runs = f" for each of {place + 1} runs at the same time" if place else ""
            raise UserError(f"--cpus {self.cpus}{runs}: this machine gives {cores}")
        memory = total_memory()
        if (place + 1) * self.memory > memory:
            raise UserError(f"--memory {in_bytes(self.memory)}: there are {in_bytes(memory)} here")
        free = shutil.disk_usage(next(path for path in (out, *out.parents) if path.exists())).free
        # for the scratch folder, for the copy of the weights, and for all copies during a run
        needed = (place + 1) * (room_for(self.disk) + (2 if self.score.over_time else 1) * self.disk)
        if needed > free:
            words = f"{in_bytes(needed)} must be free, for scratch folders and copies of the weights"
            raise UserError(f"--disk {in_bytes(self.disk)}: {words}, but {out} has {in_bytes(free)}")
        if self.gpus and (place + 1) * self.gpus > len(gpu_devices()):
            raise UserError(f"GPUs: {self.gpus} per run were asked for, but this machine has {len(gpu_devices())}")


def default_test_budget(num_images: int) -> float:
    """Seconds for predicting so many images where nothing is said: enough to predict, and too few to train.

    Rounded up to half minutes, so that it does not tell how many secret images there are.
    """
    return 30.0 * math.ceil((20 + num_images / 100) / 30)


DEVICES = Path("/dev")


def gpu_devices() -> list[Path]:
    """The device files of this machine's NVIDIA GPUs, in order."""
    found = (path for path in DEVICES.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name))
    return sorted(found, key=lambda path: int(path.name.removeprefix("nvidia")))


def default_memory() -> int:
    """Bytes that a submission may use where nothing is said: 12 GiB, at most three quarters of the machine."""
    return min(12 << 30, total_memory() // 4 * 3)


def bytes_of(name: str, text: str, least: int = 1 << 20, most: int = 1 << 50) -> int:
    """Bytes from 500M, 2G, 1.5GiB, 4096.

    Args:
        name: what is read, for messages.
        least, most: smallest and largest size allowed.

    Raises:
        UserError: it is not a size, or too small or too large.
    """
    found = re.fullmatch(r"(\d{1,20}(?:\.\d{1,9})?)\s*([KMGT]?)(?:iB|B)?", text.strip(), re.IGNORECASE)
    number = float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " ") if found else 0
    if number < least:
        raise UserError(f"{name} must be a size of at least {in_bytes(least)}, such as 2G, got {text[:40]!r}")
    if number > most:
        raise UserError(f"{name} must be a size of at most {in_bytes(most)}, got {text[:40]!r}")
    return int(number)


def in_bytes(number: int) -> str:
    """A number of bytes as a person writes it: 1610612736 → `1.5 GiB`."""
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number} bytes"
