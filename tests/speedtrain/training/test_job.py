"""The images on their way to the process that trains: once on the disk, never copied into memory, deleted in time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled_images import some_images, some_labels

from speedtrain.config import resolve
from speedtrain.training import planner
from speedtrain.training.job import Job
from speedtrain.training.members import _write_jobs
from speedtrain.training.step_log import Recorded
from speedtrain.training.worker import train
from timing import Ledger

IMAGES, LABELS = some_images(12), some_labels(12)


def a_job(run: Path, members: int = 0, replay: Recorded | None = None) -> Job:
    config = resolve(budget=9)
    return Job(config, ("a", "b", "c"), "", run, replay=replay, members=(config,) * members)


def test_the_images_are_the_deleted_file(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    replay = Recorded.of(tmp_path / "clock.csv", {"step": 7, "last_weights": True})
    a_job(tmp_path, replay=replay).write(folder, IMAGES, LABELS)
    job, images, labels, targets, start = Job.take(folder)
    assert job.replay == replay == (tmp_path / "clock.csv", 7, True)
    assert not folder.exists()
    assert (job.classes, targets, start) == (("a", "b", "c"), None, None)
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


def test_several_networks_map_the_same_file(tmp_path: Path) -> None:
    """One copy on the disk, and in memory the same pages; the last to take it deletes it."""
    folder, targets = tmp_path / "job", np.eye(3, dtype=np.float32)[LABELS]
    folder.mkdir()
    a_job(tmp_path, members=2).write(folder, IMAGES, LABELS, targets)
    _, images, labels, read, _ = Job.take(folder)
    jobs: Mapping[int, Job] = {number: a_job(tmp_path) for number in (1, 3)}
    _write_jobs(jobs, folder, images, labels, read)
    assert not list(folder.glob("*.npy"))
    files = [(folder / str(number) / "images.npy").stat() for number in jobs]
    assert len({(file.st_dev, file.st_ino) for file in files}) == 1
    assert files[0].st_nlink == 2
    for number, job in jobs.items():
        job.write_settings(folder / str(number))
        _, *taken, _ = Job.take(folder / str(number))
        for array, expected in zip(taken, (IMAGES, LABELS, targets), strict=True):
            np.testing.assert_array_equal(array, expected)
        assert not (folder / str(number)).exists()


def test_images_without_a_job_are_written_once_for_several_networks(tmp_path: Path) -> None:
    jobs: Mapping[int, Job] = {number: a_job(tmp_path) for number in (1, 2)}
    _write_jobs(jobs, tmp_path / "jobs", IMAGES, LABELS, None)
    assert not list((tmp_path / "jobs").glob("*.npy"))
    files = [tmp_path / "jobs" / str(number) / "images.npy" for number in jobs]
    assert files[0].samefile(files[1])
    np.testing.assert_array_equal(np.load(files[0]), IMAGES)


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_a_cpu_trains_on_the_array_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_job(tmp_path).write(tmp_path, IMAGES, LABELS)
    images = np.load(tmp_path / "images.npy", mmap_mode="r")

    class Enough(Exception):
        pass

    def plan(config: object, stored: torch.Tensor, *_: Any, **__: Any) -> None:
        assert stored.data_ptr() == images.ctypes.data
        assert torch.equal(stored, torch.tensor(IMAGES))
        raise Enough

    monkeypatch.setattr(planner, "make_plan", plan)
    config = resolve(budget=9)
    config.device = "cpu"
    with pytest.raises(Enough):
        train(config, images, LABELS, ("a", "b", "c"), tmp_path, ledger=Ledger())
