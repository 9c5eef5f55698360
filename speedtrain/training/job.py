"""What the parent process hands to the process that trains."""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from speedtrain.config import Config
from speedtrain.training.step_log import Recorded

IMAGES = "images.npy"
START = "start.safetensors"
"""Name of the file with the weights to start from."""
TARGETS = "targets.npy"


@dataclass(frozen=True)
class Job:
    """One job: its settings, and the labelled images to train on.

    Attributes:
        config: the configuration; the planner fills in what is `auto`.
        classes: names of the classes.
        data_sha256: digest of the training images, stored with the weights.
        run: directory for `clock.csv`, `metrics.csv` and the weights.
        replay: what to follow instead of the clock; default: the clock.
        max_steps: end after so many steps, whatever the clock says; default: no such limit.
        plan_only: measure and plan, without training.
        started_from: what the weights are that training starts from, stored with the weights it saves; default: none,
            since they are random.
        ends_at: the deadline, in seconds of `time.monotonic()`; default: the budget after the start of the process.
        members: the configurations of several networks, trained at once in place of one by `config`; default: none.
        or_members: likewise, where the planner predicts a higher accuracy of them than of one network; default: none.
    """

    config: Config
    classes: tuple[str, ...]
    data_sha256: str
    run: Path
    replay: Recorded | None = None
    max_steps: int | None = None
    plan_only: bool = False
    started_from: dict[str, Any] | None = None
    ends_at: float | None = None
    members: tuple[Config, ...] = ()
    or_members: tuple[Config, ...] = ()

    def write(
        self,
        folder: Path,
        images: np.ndarray,
        labels: np.ndarray,
        targets: np.ndarray | None = None,
        start: bytes | None = None,
    ) -> None:
        """Writes the job to a folder, with images uint8 [N, H, W, 3] and labels int64 [N].

        Args:
            targets: as in `Images`. Default: None.
            start: a safetensors file with the weights to start from. Default: None, random weights.
        """
        if start is not None:
            (folder / START).write_bytes(start)
        np.save(folder / IMAGES, images)
        np.save(folder / "labels.npy", labels)
        if targets is not None:
            np.save(folder / TARGETS, targets)
        self.write_settings(folder)

    def write_settings(self, folder: Path) -> None:
        """Writes the job without its images, which lie in the folder already, or will."""
        paths = {"run": str(self.run), "replay": self.replay and (str(self.replay.log), *self.replay[1:])}
        content = {**asdict(self), **paths}
        (folder / "job.json").write_text(json.dumps(content), encoding="utf-8")

    @classmethod
    def take(cls, folder: Path) -> tuple["Job", np.ndarray, np.ndarray, np.ndarray | None, bytes | None]:
        """Reads a job, its images, labels and targets, and the weights to start from, and deletes the folder.

        The images should not stay on the disk if the parent process is killed. They are not copied into memory: the
        array is the deleted file, mapped, and cannot be changed. The folder of a job of several networks stays, since
        its images are handed on.
        """
        start = (folder / START).read_bytes() if (folder / START).exists() else None
        job = cls(**json.loads((folder / "job.json").read_text(encoding="utf-8")))
        labels = np.load(folder / "labels.npy")
        try:
            images = np.load(folder / IMAGES, mmap_mode="r")
        except OSError:  # a file system that cannot map files
            images = np.load(folder / IMAGES)
        targets = np.load(folder / TARGETS) if (folder / TARGETS).exists() else None
        if not job.members:
            shutil.rmtree(folder, ignore_errors=True)
        replay = None if job.replay is None else Recorded(Path(job.replay[0]), *job.replay[1:])
        config = Config(**job.config)  # type: ignore[arg-type]  # a mapping in JSON
        members = tuple(Config(**member) for member in job.members)  # type: ignore[arg-type]
        considered = tuple(Config(**member) for member in job.or_members)  # type: ignore[arg-type]
        job = replace(
            job,
            config=config,
            members=members,
            or_members=considered,
            classes=tuple(job.classes),
            run=Path(job.run),
            replay=replay,
        )
        return job, images, labels, targets, start
